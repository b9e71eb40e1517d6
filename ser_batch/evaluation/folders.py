"""Names of the files of evaluations and cross-validations, and a cross-validation's summary."""

import json
from pathlib import Path
from typing import Any

from ser_batch.errors import SourceError

PREDICTIONS = "predictions.csv"
SCORES = "scores.json"
FOLDS = "folds"  # of an unfinished cross-validation


def read_validation_summary(folder: Path) -> dict[str, Any]:
    """The scores of a finished cross-validation, as `SCORES` holds them.

    Raises:
        SourceError: it is missing, unfinished, damaged or something else.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give one that cross-validate wrote")
    if not (folder / SCORES).exists():
        raise SourceError(
            f"{folder}: holds no {SCORES}, so it is no finished cross-validation; if it was cut short, run it again"
        )
    try:
        summary = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / SCORES}: damaged ({error}); run cross-validate again with --restart") from error
    if not isinstance(summary, dict) or not {"title", "protocol", "labels", "speakers", "ece"} <= summary.keys():
        raise SourceError(
            f"{folder}: its {SCORES} is not of a cross-validation; give a folder that cross-validate wrote"
        )
    return summary
