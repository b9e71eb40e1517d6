"""UAR, WA, scores per class, confusion matrix and calibration error of predictions."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

from ser_batch.formatting import format_uar

ECE_BINS = 15


@dataclass(frozen=True)
class ClassScore:
    """Scores of one label.

    Attributes:
        label: its name.
        precision, recall, f1: 0 to 1; 0 where the denominator is 0.
        support: number of recordings with this true label.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """All scores of one set of predictions.

    Attributes:
        uar: unweighted average recall: the mean recall of the labels that have recordings.
        wa: weighted accuracy: the share of correct predictions.
        classes: one for each label.
        confusion: int64 ``(labels, labels)``; rows are true labels, columns predicted ones.
    """

    uar: float
    wa: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]

    @property
    def absent(self) -> tuple[str, ...]:
        """The labels without recordings; the UAR excludes them."""
        return tuple(one.label for one in self.classes if not one.support)

    @property
    def uar_text(self) -> str:
        """The UAR as text, with the number of averaged labels if some are absent."""
        return format_uar(self.uar, len(self.classes) - len(self.absent), len(self.classes))

    def to_json(self) -> dict[str, Any]:
        """All scores except the confusion matrix, as a JSON object."""
        return {
            "uar": round(self.uar, 6),
            "wa": round(self.wa, 6),
            "recordings": int(self.confusion.sum()),
            "labels_scored": len(self.classes) - len(self.absent),
            "labels_absent": list(self.absent),
            "classes": {score.label: _rounded(score) for score in self.classes},
        }


def _rounded(score: ClassScore) -> dict[str, float]:
    return {name: round(value, 6) for name, value in asdict(score).items() if name != "label"}


def score(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> Scores:
    """Score predictions.

    Args:
        truth: int ``(n,)``, the index of the true label of each recording.
        predicted: int ``(n,)``, the index of the predicted label of each recording.
        labels: label names.
    """
    codes = range(len(labels))
    columns = precision_recall_fscore_support(truth, predicted, labels=codes, zero_division=0.0)
    classes = tuple(
        ClassScore(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    )
    uar = float(np.mean([one.recall for one in classes if one.support]))
    return Scores(
        uar, float(accuracy_score(truth, predicted)), classes, confusion_matrix(truth, predicted, labels=codes)
    )


@dataclass(frozen=True, eq=False)
class Reliability:
    """Accuracy by confidence, in bins of equal width from 0 to 1; a bin includes its upper edge.

    Attributes:
        n_bins: number of bins.
        counts: int64 ``(n_bins,)``, predictions in each bin.
        confidence, accuracy: float64 ``(n_bins,)``, mean top probability and share of correct predictions;
            0 in an empty bin.
    """

    n_bins: int
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: mean of ``|accuracy - confidence|``, weighted by the counts."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / max(int(self.counts.sum()), 1))

    def to_json(self) -> dict[str, list[float]]:
        """All bins as a JSON object, with six digits."""
        return {
            "counts": self.counts.tolist(),
            "confidence": self.confidence.round(6).tolist(),
            "accuracy": self.accuracy.round(6).tolist(),
        }

    @classmethod
    def from_json(cls, values: dict[str, list[float]]) -> "Reliability":
        """From the output of `to_json`."""
        counts = np.array(values["counts"], dtype=np.int64)
        return cls(len(counts), counts, np.array(values["confidence"]), np.array(values["accuracy"]))


def reliability(probabilities: ArrayLike, truth: ArrayLike, n_bins: int = ECE_BINS) -> Reliability:
    """Accuracy and mean confidence in bins of confidence.

    Args:
        probabilities: float ``(n, labels)``, each row summing to 1.
        truth: int ``(n,)``, the index of each row's true label.
        n_bins: number of bins.
    """
    matrix = np.asarray(probabilities, dtype=np.float64)
    confidence = matrix.max(axis=1)
    correct = matrix.argmax(axis=1) == np.asarray(truth)
    bins = np.clip(np.ceil(confidence * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    means = [np.bincount(bins, weights=one, minlength=n_bins) / np.maximum(counts, 1) for one in (confidence, correct)]
    return Reliability(n_bins, counts, *means)


def expected_calibration_error(probabilities: ArrayLike, truth: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """The expected calibration error (ECE) of the top probability, 0 to 1.

    Naeini, Cooper and Hauskrecht 2015, in the form of Guo et al. 2017. It is biased upwards for few recordings: about
    .03 to .05 for a perfectly calibrated model with 500 recordings and 15 bins.
    """
    return reliability(probabilities, truth, n_bins).error
