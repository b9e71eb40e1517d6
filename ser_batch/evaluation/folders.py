"""File names of evaluations and cross-validations, and reading the scores of a cross-validation."""

import json
from pathlib import Path
from typing import Any

from ser_batch.errors import SourceError

PREDICTIONS = "predictions.csv"
SCORES = "scores.json"
HISTORY = "history.csv"  # of the trainings of all folds
FOLDS = "folds"  # parts of an unfinished cross-validation


def read_validation_summary(folder: Path) -> dict[str, Any]:
    """Read `SCORES` of a finished cross-validation.

    Raises:
        SourceError: it is missing, unfinished, damaged or not a cross-validation.
    """
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give one that cross-validate wrote")
    if not (folder / SCORES).exists():
        raise SourceError(
            f"{folder}: has no {SCORES}, so it is not a finished cross-validation; if it was interrupted, run it again"
        )
    try:
        summary = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / SCORES}: damaged ({error}); run cross-validate again with --restart") from error
    if not isinstance(summary, dict) or not {"title", "protocol", "labels", "speakers", "ece"} <= summary.keys():
        raise SourceError(
            f"{folder}: its {SCORES} is not from a cross-validation; give a folder that cross-validate wrote"
        )
    return summary
