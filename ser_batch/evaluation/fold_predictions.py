"""The table of out-of-fold predictions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import Categorical, DataFrame, Index, Series, read_csv

from ser_batch.errors import SourceError
from ser_batch.evaluation.folders import PREDICTIONS, read_validation_summary
from ser_batch.formatting import format_timestamp
from ser_batch.storage.writing import open_atomically, write_rows

RECORDING = ["file", "start", "end"]  # the columns that identify a recording
_TEXTS = [*RECORDING, "speaker", "label", "fold", "emotion"]
_COLUMNS = [*RECORDING, "speaker", "label", "fold", "seed", "emotion", "confidence", "novelty"]


@dataclass(frozen=True, slots=True)
class FoldPrediction:
    """An out-of-fold prediction: the network was not trained on this recording.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        speaker: empty where unknown.
        label: index of the true label.
        fold: name of the fold in which the recording is held out.
        seed: of the training.
        probabilities: of each label, before calibration, summing to 1.
        novelty: distance to the training data of the fold, 0 to 1.
    """

    file: str
    start_secs: float
    end_secs: float
    speaker: str
    label: int
    fold: str
    seed: int
    probabilities: Sequence[float]
    novelty: float


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions of a finished cross-validation.

    Attributes:
        protocol: the stored options, recipe and records of the cross-validation.
        labels: in the order of the columns of probabilities.
        table: as `predictions_table` returns it, with probabilities rounded to six digits.
    """

    protocol: dict[str, Any]
    labels: tuple[str, ...]
    table: DataFrame


def predictions_table(
    predictions: Sequence[FoldPrediction], probabilities: NDArray[np.float64], labels: Sequence[str]
) -> DataFrame:
    """A row for each prediction: the columns of `PREDICTIONS`.

    Args:
        predictions: one for each recording and seed.
        probabilities: of each, calibrated, ``(n, labels)``.
        labels: their names; ``label`` and ``emotion`` are categories in this order.

    Raises:
        ValueError: a seed predicts a recording twice or not at all.
    """
    table = DataFrame(
        {
            "file": [one.file for one in predictions],
            "start": [format_timestamp(one.start_secs) for one in predictions],
            "end": [format_timestamp(one.end_secs) for one in predictions],
            "speaker": [one.speaker for one in predictions],
            "label": Categorical.from_codes([one.label for one in predictions], Index(labels)),
            "fold": [one.fold for one in predictions],
            "seed": [one.seed for one in predictions],
            "emotion": Categorical.from_codes(probabilities.argmax(axis=1), Index(labels)),
            "confidence": probabilities.max(axis=1),
            "novelty": [one.novelty for one in predictions],
        }
    )
    table[_probability_columns(labels)] = probabilities
    _check_complete(table)
    return table


def _probability_columns(labels: Sequence[str]) -> list[str]:
    return [f"p_{label}" for label in labels]


def _check_complete(table: DataFrame) -> None:
    """Check that every seed has every recording exactly once."""
    n_recordings = table[RECORDING].drop_duplicates().shape[0]
    if table.empty or table.duplicated([*RECORDING, "seed"]).any() or len(table) != n_recordings * table.seed.nunique():
        raise ValueError("not one row for each recording and seed")


def label_codes(column: "Series[Any]") -> NDArray[np.int64]:
    """The index of each row's label, int64 ``(n,)``."""
    return np.asarray(column.cat.codes, dtype=np.int64)


def write_table(path: Path, table: DataFrame) -> None:
    """Write a table as CSV: fractions with six digits, missing values as empty cells."""
    texts = table.astype(object)
    for name in table.select_dtypes("float"):
        texts[name] = table[name].map("{:.6f}".format)
    with open_atomically(path) as file:
        write_rows(file, [[*map(str, texts)], *texts.where(table.notna(), "").to_numpy().tolist()])


def read_predictions(folder: Path) -> OutOfFold:
    """Read a finished cross-validation folder.

    Raises:
        SourceError: it is missing, unfinished, damaged or not a cross-validation.
    """
    summary = read_validation_summary(folder)
    labels = tuple(summary["labels"])
    path = folder / PREDICTIONS
    numbers = ["confidence", "novelty", *_probability_columns(labels)]
    types: dict[Hashable, Any] = dict.fromkeys(_TEXTS, str) | {"seed": np.int64} | dict.fromkeys(numbers, np.float64)
    try:
        table = read_csv(path, dtype=types, keep_default_na=False, index_col=False)
        # Earlier versions did not store the novelty.
        if [*table.columns.drop("novelty", errors="ignore")] != [*_COLUMNS[:-1], *numbers[2:]]:
            raise ValueError("other columns")
        if unknown := sorted({*table.label, *table.emotion} - set(labels)):
            raise ValueError(f"unknown label {unknown[0]!r}")
        if table.isna().any(axis=None):
            raise ValueError("empty cells")
        _check_complete(table)
    except (OSError, ValueError) as error:
        detail = " ".join(str(error).split())
        raise SourceError(f"{path}: damaged ({detail}); run cross-validate again with --restart") from error
    for name in ("label", "emotion"):
        table[name] = Categorical(table[name], list(labels))
    return OutOfFold(summary["protocol"], labels, table)


@dataclass(frozen=True)
class CrossValidation:
    """A finished cross-validation.

    Attributes:
        path: its folder.
        summary: the content of ``scores.json``.
        was_finished: whether the folder was already complete before this run.
    """

    path: Path
    summary: dict[str, Any]
    was_finished: bool = False

    def __repr__(self) -> str:
        uar, wa = self.summary["uar"]["mean"], self.summary["wa"]["mean"]
        return f"<CrossValidation {self.path}: {self.summary['title']}: UAR {uar:.3f}, WA {wa:.3f}>"

    def predictions(self) -> DataFrame:
        """The rows of ``predictions.csv``: a row for each recording and seed, with its true label and fold."""
        return read_predictions(self.path).table
