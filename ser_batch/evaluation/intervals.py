"""Bootstrap intervals and permutation tests over speakers."""

import itertools
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

_EXACT_UNITS = 14
_DRAWS = 20_000


def sign_flip_p(parts: ArrayLike, seed: int = 0) -> float:
    """The two-sided p of a permutation test of pairs: is the sum of these differences 0 but for chance?

    If A and B were alike, each difference could as well have the other sign. p is the share of all ways to set the
    signs whose sum is at least as far from 0 as the sum that was found: exact for at most 14 differences (then it is
    never below 1 / 2^(n - 1)), else from 20,000 random ways and the one found.

    Args:
        parts: float ``(n,)``, one difference for each pair.
        seed: of the random ways.
    """
    found = np.asarray(parts, dtype=np.float64)
    least = abs(found.sum()) * (1 - 1e-9) - 1e-12
    if len(found) <= _EXACT_UNITS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(found))))
        return float(np.mean(np.abs(signs @ found) >= least))
    # Thousands of recordings have few different sizes: draw how many of each size turn.
    sizes, counts = np.unique(np.abs(found), return_counts=True)
    chance = np.random.default_rng(seed)
    far = 0
    for _ in range(_DRAWS // 500):
        turned = chance.binomial(counts, 0.5, size=(500, len(counts)))
        far += int((np.abs((counts - 2 * turned) @ sizes) >= least).sum())
    return (far + 1) / (_DRAWS + 1)


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
