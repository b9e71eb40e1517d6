"""Bootstrap intervals and permutation tests over speakers.

SciPy's bootstrap and permutation_test draw an index for each unit, which takes seconds over 10,000 recordings.
Drawing how often each distinct row occurs gives the same distribution in milliseconds.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pandas import DataFrame

_EXACT_UNITS = 14
_DRAWS = 20_000


def sign_flip_p(differences: ArrayLike, seed: int = 0) -> float:
    """The two-sided p-value of a paired permutation test (sign-flip test). Null hypothesis: the mean difference is 0.

    Under the null hypothesis both signs of each difference are equally likely. p is the share of sign assignments whose
    absolute sum is at least the observed one. It is exact for at most 14 differences (minimum 1 / 2^(n - 1)); for more,
    20,000 random assignments and the observed one are used.

    Args:
        differences: float ``(n,)``, one for each pair.
        seed: for the random assignments.
    """
    observed = np.asarray(differences, dtype=np.float64)
    threshold = abs(observed.sum()) * (1 - 1e-9) - 1e-12
    if len(observed) <= _EXACT_UNITS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(observed))))
        return float(np.mean(np.abs(signs @ observed) >= threshold))
    # Thousands of recordings have few distinct differences: draw the number of sign changes for each size.
    sizes, counts = np.unique(np.abs(observed), return_counts=True)
    random = np.random.default_rng(seed)
    n_extreme = 0
    for _ in range(_DRAWS // 500):
        flipped = random.binomial(counts, 0.5, size=(500, len(counts)))
        n_extreme += int((np.abs((counts - 2 * flipped) @ sizes) >= threshold).sum())
    return (n_extreme + 1) / (_DRAWS + 1)


@dataclass(frozen=True, eq=False)
class SpeakerCounts:
    """Correct and all recordings of each unit and label, from which UAR and WA follow.

    Attributes:
        over: the units: ``speakers``; or ``recordings``, if a speaker is unknown or there is only one.
        correct: number of correct predictions, float64, a row for each unit, a column for each true label.
        support: number of all predictions, in the same form.
    """

    over: Literal["speakers", "recordings"]
    correct: DataFrame
    support: DataFrame


def count_by_speaker(
    truth: ArrayLike, correct: ArrayLike, speakers: Iterable[str], recordings: Iterable[int], n_labels: int
) -> SpeakerCounts:
    """Count by speaker, or by recording if a speaker is unknown or there is only one.

    Args:
        truth: int ``(n,)``, index of the true label of each prediction.
        correct: bool ``(n,)``, whether each prediction is correct.
        speakers: of each prediction; empty text where unknown.
        recordings: number of the recording of each prediction; predictions of several seeds share one.
        n_labels: number of labels.
    """
    names = list(speakers)
    known = all(names) and len(set(names)) > 1
    table = DataFrame({"unit": names if known else list(recordings), "label": truth, "correct": correct})
    groups = table.groupby(["unit", "label"]).correct
    by_label = [
        DataFrame(counts.unstack(fill_value=0)).reindex(columns=range(n_labels), fill_value=0).astype(float)
        for counts in (groups.sum(), groups.size())
    ]
    return SpeakerCounts("speakers" if known else "recordings", *by_label)


def recalls(correct: NDArray[np.float64], support: NDArray[np.float64]) -> NDArray[np.float64]:
    """The recall of each label, ``(…, labels)`` like both arguments; NaN where the label is absent."""
    return np.divide(correct, support, out=np.full_like(correct, np.nan), where=support > 0)


def resampled_sums(rows: NDArray[np.float64], n_resamples: int = 10_000, seed: int = 0) -> NDArray[np.float64]:
    """Bootstrap: draw ``units`` rows of ``(units, columns)`` with replacement, and sum them; ``n_resamples`` times.

    Returns:
        float64 ``(n_resamples, columns)``.
    """
    # Equal rows are drawn together, because thousands of recordings have few distinct rows.
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    random = np.random.default_rng(seed)
    shares = counts / counts.sum()
    blocks = [min(500, n_resamples - start) for start in range(0, n_resamples, 500)]
    return np.concatenate([random.multinomial(len(rows), shares, size=size) @ distinct for size in blocks])


@dataclass(frozen=True)
class Intervals:
    """95 % percentile bootstrap intervals, each as (low, high).

    Attributes:
        over: the resampled units: ``speakers``; or ``recordings``, if a speaker is unknown or there is only one.
        units: their number.
        uar, wa: the intervals of these scores.
        recalls: the interval of each label; None for a label without recordings.
    """

    over: Literal["speakers", "recordings"]
    units: int
    uar: tuple[float, float]
    wa: tuple[float, float]
    recalls: tuple[tuple[float, float] | None, ...]


def interval_over_speakers(counts: SpeakerCounts, n_resamples: int = 10_000, seed: int = 0) -> Intervals:
    """Bootstrap intervals of UAR, WA and recalls for the population of speakers.

    Speakers are resampled with replacement, and all predictions of the drawn speakers are scored together. Recordings
    of one speaker are similar, so resampling recordings would give intervals that are too narrow. All seeds of a
    speaker are drawn together. With ten speakers, percentile intervals are somewhat too narrow.
    """
    sums = resampled_sums(np.hstack([counts.correct, counts.support]), n_resamples, seed)
    correct, support = np.hsplit(sums, 2)
    by_label = recalls(correct, support)
    return Intervals(
        counts.over,
        len(counts.support),
        interval(np.nanmean(by_label, axis=1)),
        interval(correct.sum(axis=1) / support.sum(axis=1)),
        tuple(None if np.isnan(column).all() else interval(column[~np.isnan(column)]) for column in by_label.T),
    )


def interval(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of ``(n_resamples,)`` values."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return float(low), float(high)
