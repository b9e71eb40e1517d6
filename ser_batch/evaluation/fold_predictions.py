"""The table of out-of-fold predictions."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import SourceError
from ser_batch.evaluation.metrics import Scores, expected_calibration_error, score
from ser_batch.formatting import format_timestamp
from ser_batch.storage.writing import open_atomically, write_rows

PREDICTIONS = "predictions.csv"
SCORES = "scores.json"
FOLDS = "folds"  # of an unfinished run

_KEYS = ("file", "start", "end", "speaker", "label", "fold", "seed", "emotion", "confidence")


@dataclass(frozen=True, slots=True)
class FoldPrediction:
    """What a network says of a recording that it was not trained on.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        speaker: empty where unknown.
        label: index of the true label.
        fold: name of the fold that held the recording out.
        seed: of the training.
        temperature: of the fold, fitted on others of its training side.
        raw: probability of each label as the network gave it, summing to 1.
        calibrated: the same at the fold's temperature.
    """

    file: str
    start_secs: float
    end_secs: float
    speaker: str
    label: int
    fold: str
    seed: int
    temperature: float
    raw: Sequence[float]
    calibrated: Sequence[float]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions of a cross-validation folder, a row for each recording and seed.

    Attributes:
        protocol: how they came about, as the cross-validation described itself.
        labels: in the order of the columns of ``probabilities``.
        recordings: (file, start, end) of each row; rows of several seeds share one.
        speakers: of each row; empty text where unknown.
        folds: of each row.
        seeds: int64 ``(n,)``.
        truth, predicted: int64 ``(n,)``, indices of labels.
        probabilities: float64 ``(n, labels)``, calibrated.
    """

    protocol: dict[str, Any]
    labels: tuple[str, ...]
    recordings: tuple[tuple[str, str, str], ...]
    speakers: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]


class _Rows:
    """The columns of predictions, as arrays."""

    def __init__(self, predictions: Sequence[FoldPrediction], labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.recordings = [
            (one.file, format_timestamp(one.start_secs), format_timestamp(one.end_secs)) for one in predictions
        ]
        self.speakers = np.array([one.speaker for one in predictions])
        self.folds = np.array([one.fold for one in predictions])
        self.seeds = np.array([one.seed for one in predictions], dtype=np.int64)
        self.truth = np.array([one.label for one in predictions], dtype=np.int64)
        self.raw = np.array([one.raw for one in predictions], dtype=np.float64)
        self.calibrated = np.array([one.calibrated for one in predictions], dtype=np.float64)
        self.predicted = self.calibrated.argmax(axis=1)
        # Temperatures are factors, so their mean is the geometric one.
        self.temperature = float(np.exp(np.mean([np.log(one.temperature) for one in predictions])))
        self.seed_values = sorted(set(self.seeds.tolist()))
        self.n_recordings = len(set(self.recordings))
        if not _each_once(self.recordings, self.seeds):
            raise ValueError("every seed must predict every recording once")

    def scores(self, chosen: NDArray[np.bool_]) -> Scores:
        return score(self.truth[chosen], self.predicted[chosen], self.labels)

    def errors(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        truth = self.truth[chosen]
        return {
            "ece_before": expected_calibration_error(self.raw[chosen], truth),
            "ece_after": expected_calibration_error(self.calibrated[chosen], truth),
        }


def _each_once(recordings: Sequence[tuple[str, str, str]], seeds: NDArray[np.int64]) -> bool:
    """Whether every seed has every recording, and none twice."""
    cells = set(zip(recordings, seeds.tolist(), strict=True))
    return len(cells) == len(recordings) == len(set(recordings)) * len(set(seeds.tolist()))


def _write_predictions(path: Path, predictions: Sequence[FoldPrediction], rows: _Rows) -> None:
    with open_atomically(path) as file:
        write_rows(file, [[*_KEYS, *(f"p_{label}" for label in rows.labels)]])
        for one, best in zip(predictions, rows.predicted, strict=True):
            row = [
                one.file,
                format_timestamp(one.start_secs),
                format_timestamp(one.end_secs),
                one.speaker,
                rows.labels[one.label],
            ]
            row += [one.fold, str(one.seed), rows.labels[best], f"{one.calibrated[best]:.6f}"]
            write_rows(file, [row + [f"{probability:.6f}" for probability in one.calibrated]])


def read_predictions(folder: Path) -> OutOfFold:
    """Read a finished cross-validation folder.

    Raises:
        SourceError: it is missing, unfinished, damaged or something else.
    """
    summary = _read_summary(folder)
    labels = tuple(summary["labels"])
    path = folder / PREDICTIONS
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != (*_KEYS, *(f"p_{label}" for label in labels)):
            raise ValueError("other columns")
        index = {label: at for at, label in enumerate(labels)}
        found = OutOfFold(
            summary["protocol"],
            labels,
            tuple((row["file"], row["start"], row["end"]) for row in rows),
            tuple(row["speaker"] for row in rows),
            tuple(row["fold"] for row in rows),
            np.array([int(row["seed"]) for row in rows], dtype=np.int64),
            np.array([index[row["label"]] for row in rows], dtype=np.int64),
            np.array([index[row["emotion"]] for row in rows], dtype=np.int64),
            np.array([[float(row[f"p_{label}"]) for label in labels] for row in rows], dtype=np.float64),
        )
        if not rows or not _each_once(found.recordings, found.seeds):
            raise ValueError("not one row for each recording and seed")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise SourceError(f"{path}: damaged ({error}); run cross-validate again with --restart") from error
    return found


def _read_summary(folder: Path) -> dict[str, Any]:
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
