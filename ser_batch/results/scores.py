"""Predictions and truth to the figures that are published: UAR, WA, per class, calibration error, intervals."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

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
    """0 where there is nothing to have a share in."""
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


@dataclass(frozen=True, eq=False)
class Tallies:
    """What of each speaker was recognised: all that UAR and WA are made of.

    Attributes:
        over: ``speakers``; or ``recordings``, where a speaker is unknown or there is but one.
        names: of the speakers; empty text over recordings.
        hits: float64 ``(units, labels)``: recordings of each true label that were predicted right.
        support: float64 ``(units, labels)``: recordings of each true label.
    """

    over: Literal["speakers", "recordings"]
    names: tuple[str, ...]
    hits: NDArray[np.float64]
    support: NDArray[np.float64]


def tally(
    truth: ArrayLike, right: ArrayLike, speakers: Sequence[str], recordings: Sequence[Hashable], n_labels: int
) -> Tallies:
    """Count by speaker, or by recording where speakers are unknown or there is but one.

    Args:
        truth: int ``(n,)``: index of the true label of each prediction.
        right: bool ``(n,)``: whether it was predicted.
        speakers: of each prediction; empty text where unknown.
        recordings: which recording each prediction is of; predictions of several seeds share one.
        n_labels: how many labels there are.
    """
    known = all(speakers) and len(set(speakers)) > 1
    units: Sequence[Hashable] = speakers if known else recordings
    index = {unit: at for at, unit in enumerate(sorted(set(speakers)) if known else dict.fromkeys(recordings))}
    cells = np.array([index[unit] for unit in units]), np.asarray(truth, dtype=np.int64)
    hits, support = np.zeros((2, len(index), n_labels))
    np.add.at(hits, cells, np.asarray(right, dtype=np.float64))
    np.add.at(support, cells, 1.0)
    names = tuple(sorted(set(speakers))) if known else ("",) * len(index)
    return Tallies("speakers" if known else "recordings", names, hits, support)


def recalls(hits: NDArray[np.float64], support: NDArray[np.float64]) -> NDArray[np.float64]:
    """The recall of each label, ``(…, labels)`` as both arguments; NaN where the label is absent."""
    return np.divide(hits, support, out=np.full_like(hits, np.nan), where=support > 0)


def resampled_sums(rows: NDArray[np.float64], n_resamples: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """The bootstrap: sums of ``(units, columns)`` drawn with replacement, as many as there are.

    Returns:
        float64 ``(n_resamples, columns)``.
    """
    # Equal rows are drawn together: thousands of recordings are of a few kinds.
    kinds, counts = np.unique(rows, axis=0, return_counts=True)
    chance = np.random.default_rng(seed)
    shares = counts / counts.sum()
    blocks = [min(500, n_resamples - at) for at in range(0, n_resamples, 500)]
    return np.concatenate([chance.multinomial(len(rows), shares, size=size) @ kinds for size in blocks])


@dataclass(frozen=True)
class Intervals:
    """95 % percentile bootstrap intervals, each from low to high.

    Attributes:
        over: what was drawn: ``speakers``, or ``recordings`` where speakers are unknown or there is but one.
        units: how many of them there are.
        uar, wa: of these scores.
        recalls: of each label; none for a label that is absent.
    """

    over: Literal["speakers", "recordings"]
    units: int
    uar: tuple[float, float]
    wa: tuple[float, float]
    recalls: tuple[tuple[float, float] | None, ...]


def interval_over_speakers(tallies: Tallies, n_resamples: int = 10_000, seed: int = 0) -> Intervals:
    """How far the scores may be from those of all speakers of this kind.

    Speakers are drawn with replacement, as many as there are, and all predictions of those drawn are scored together.
    Recordings of one speaker resemble each other, so drawing recordings would give intervals that are too narrow.
    Several seeds of one speaker travel together; then the scores are the means over seeds. With ten speakers
    a percentile interval is itself somewhat narrow.
    """
    n_labels = tallies.hits.shape[1]
    sums = resampled_sums(np.hstack([tallies.hits, tallies.support]), n_resamples, seed)
    hits, support = sums[:, :n_labels], sums[:, n_labels:]
    by_label = recalls(hits, support)
    return Intervals(
        tallies.over,
        len(tallies.hits),
        interval(np.nanmean(by_label, axis=1)),
        interval(hits.sum(axis=1) / support.sum(axis=1)),
        tuple(None if np.isnan(column).all() else interval(column[~np.isnan(column)]) for column in by_label.T),
    )


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of ``(n_resamples,)`` values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)
