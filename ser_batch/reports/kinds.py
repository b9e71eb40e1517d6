"""Kinds of outputs, recognised by their files."""

from pathlib import Path
from typing import Literal

from ser_batch.errors import SourceError
from ser_batch.evaluation.folders import FOLDS, SCORES
from ser_batch.inference.results import parts_folder
from ser_batch.models.bundles import DESCRIPTION
from ser_batch.records.folder import BUILDING, PROVENANCE
from ser_batch.storage.outputs import read_own_json

OutputKind = Literal["records", "bundle", "table", "evaluation", "cross-validation"]


def output_kind(path: Path) -> OutputKind:
    """The kind of an output of ser-batch. A file is taken for a prediction table.

    Raises:
        SourceError: the path is missing, unfinished or not an output of ser-batch.
    """
    if (path / PROVENANCE).exists() or (path / BUILDING).exists():
        return "records"
    if (path / DESCRIPTION).exists() or (path / "checkpoints").exists():
        return "bundle"
    if path.is_file():
        return "table"
    if (path / SCORES).exists():
        return "evaluation" if "split" in read_own_json(path / SCORES) else "cross-validation"
    if (path / FOLDS).is_dir():
        raise SourceError(f"{path}: an unfinished cross-validation; run its command again")
    if not path.exists():
        if parts_folder(path).exists():
            raise SourceError(f"{path}: an unfinished prediction table; run its infer command again")
        raise SourceError(f"{path}: no such file or folder")
    raise SourceError(f"{path}: is not a record folder, bundle, prediction table, evaluation or cross-validation")
