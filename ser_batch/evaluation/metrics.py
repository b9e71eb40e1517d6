"""Predictions and truth to the figures that are published: UAR, WA, per class, calibration error, intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

ECE_BINS = 15


@dataclass(frozen=True)
class ClassScore:
    """How well one label was recognised.

    Attributes:
        label: its name.
        precision, recall, f1: 0 to 1; precision is 0 where the label was never predicted.
        support: how many recordings truly have it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """All figures of one set of predictions.

    Attributes:
        uar: unweighted average recall: the mean of the recalls of the labels present in the truth.
        wa: weighted accuracy: the share of correct predictions.
        classes: one score per label.
        confusion: int64 ``(labels, labels)``: row: the truth, column: the prediction.
    """

    uar: float
    wa: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]

    @property
    def absent(self) -> tuple[str, ...]:
        """The labels that no recording has, over which the UAR is no mean."""
        return tuple(one.label for one in self.classes if not one.support)

    @property
    def uar_text(self) -> str:
        """The UAR, with the number of labels that it is over where some are absent."""
        return uar_text(self.uar, len(self.classes) - len(self.absent), len(self.classes))

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; the matrix has a file of its own."""
        return {
            "uar": round(self.uar, 6),
            "wa": round(self.wa, 6),
            "recordings": int(self.confusion.sum()),
            "labels_scored": len(self.classes) - len(self.absent),
            "labels_absent": list(self.absent),
            "classes": {
                score.label: {
                    "precision": round(score.precision, 6),
                    "recall": round(score.recall, 6),
                    "f1": round(score.f1, 6),
                    "support": score.support,
                }
                for score in self.classes
            },
        }


def uar_text(uar: float, n_scored: int, n_labels: int) -> str:
    """A UAR for people: ``UAR 0.512``, or ``UAR 0.512 over 5 of 7 labels``."""
    return f"UAR {uar:.3f}" + (f" over {n_scored} of {n_labels} labels" if n_scored < n_labels else "")


def score(truth: ArrayLike, predicted: ArrayLike, labels: Sequence[str]) -> Scores:
    """Score predictions.

    Args:
        truth: index of the true label of each recording.
        predicted: index of the predicted one.
        labels: their names.
    """
    confusion = confusion_matrix(truth, predicted, len(labels))
    right, support, predictions = confusion.diagonal(), confusion.sum(axis=1), confusion.sum(axis=0)
    precision, recall = _share(right, predictions), _share(right, support)
    f1 = _share(2 * right, support + predictions)
    classes = tuple(
        ClassScore(label, float(precision[at]), float(recall[at]), float(f1[at]), int(support[at]))
        for at, label in enumerate(labels)
    )
    return Scores(float(recall[support > 0].mean()), float(right.sum() / support.sum()), classes, confusion)


def confusion_matrix(truth: ArrayLike, predicted: ArrayLike, n_labels: int) -> NDArray[np.int64]:
    """Counts, int64 ``(n_labels, n_labels)``: row: the truth, column: the prediction."""
    cells = np.asarray(truth, dtype=np.int64) * n_labels + np.asarray(predicted, dtype=np.int64)
    return np.bincount(cells, minlength=n_labels**2).reshape(n_labels, n_labels)


def _share(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """0 where the denominator is 0."""
    shares: NDArray[np.float64] = part / np.maximum(whole, 1)
    return shares


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of about the same confidence are right.

    Attributes:
        n_bins: bins of equal width over confidences from 0 to 1; a bin holds its upper edge, not its lower.
        counts: int64 ``(n_bins,)``: predictions in each bin.
        confidence, accuracy: float64 ``(n_bins,)``: mean top probability, and share of correct predictions;
            both 0 in an empty bin.
    """

    n_bins: int
    counts: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap of accuracy and confidence, bins weighted by their counts."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / max(int(self.counts.sum()), 1))


def reliability(probabilities: ArrayLike, truth: ArrayLike, n_bins: int = ECE_BINS) -> Reliability:
    """Sort predictions into bins by confidence.

    Args:
        probabilities: float ``(n, labels)``, each row summing to 1.
        truth: int ``(n,)``, the index of each row's true label.
        n_bins: how many bins.
    """
    matrix = np.asarray(probabilities, dtype=np.float64)
    top = matrix.max(axis=1)
    right = matrix.argmax(axis=1) == np.asarray(truth)
    bins = np.clip(np.ceil(top * n_bins).astype(np.int64) - 1, 0, n_bins - 1)
    counts = np.bincount(bins, minlength=n_bins)
    held = np.maximum(counts, 1)
    return Reliability(
        n_bins,
        counts,
        np.bincount(bins, weights=top, minlength=n_bins) / held,
        np.bincount(bins, weights=right, minlength=n_bins) / held,
    )


def expected_calibration_error(probabilities: ArrayLike, truth: ArrayLike, n_bins: int = ECE_BINS) -> float:
    """The expected calibration error (ECE) of the top probability, 0 to 1.

    Naeini, Cooper and Hauskrecht 2015, in the form of Guo et al. 2017. It is never below what chance makes of few
    recordings: some .03 to .05 for a perfectly calibrated model, 500 recordings and 15 bins.
    """
    return reliability(probabilities, truth, n_bins).error
