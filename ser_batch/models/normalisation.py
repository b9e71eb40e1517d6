"""Standardisation of features by statistics of the training examples and of each speaker.

Speaker normalisation transforms each speaker's features to the mean and variance of the training examples, which
removes differences of voices and microphones. It uses no labels. NumPy only, as infer workers import this module.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s

# In training: number of pseudo-recordings with the training statistics that are added to every speaker's.
_PRIOR_RECORDINGS = 10.0

# In training: the most examples that a random scale is from. More would change it little, and take long.
_MOST_EXAMPLES = 200


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and variance of features over the training examples, float32 ``(features,)`` each."""

    mean: Float32s
    variance: Float32s


@dataclass
class GroupStatistics:
    """Sums and sums of squares over a group of recordings, float64 ``(features,)`` each."""

    n_recordings: int = 0
    total: NDArray[np.float64] | float = 0.0
    squares: NDArray[np.float64] | float = 0.0

    def add(self, features: NDArray[np.floating[Any]]) -> "GroupStatistics":
        """Add the features ``(recordings, features)`` of recordings of the group."""
        exact = features.astype(np.float64)
        self.n_recordings += len(exact)
        self.total = self.total + exact.sum(axis=0)
        self.squares = self.squares + np.square(exact).sum(axis=0)
        return self


def measure_scale(batches: Iterable[NDArray[np.floating[Any]]]) -> Scale:
    """Mean and variance over all batches ``(batch, features)``."""
    statistics = GroupStatistics()
    for batch in batches:
        statistics.add(batch)
    return shrunk(statistics, Scale(np.zeros(1, np.float32), np.zeros(1, np.float32)), 0.0)


def within_speakers(features: NDArray[np.floating[Any]], speakers: Sequence[str]) -> Scale:
    """Mean of all examples, and within-speaker variance averaged over speakers; without speakers, the total variance.

    Args:
        features: of the examples, ``(examples, features)``.
        speakers: of the examples; empty where unknown.
    """
    members = _members(speakers)
    groups = [features[rows] for rows in members.values() if len(rows) > 1] or [features]
    variance = np.mean([np.var(group, axis=0, dtype=np.float64) for group in groups], axis=0)
    return Scale(features.mean(axis=0, dtype=np.float64).astype(np.float32), variance.astype(np.float32))


def shrunk(statistics: GroupStatistics, towards: Scale, prior: float) -> Scale:
    """Mean and variance of a group of recordings, shrunk towards other statistics.

    Args:
        statistics: of the group: a speaker, a voice or a batch.
        towards: statistics of what the group is part of: the batch, or the training examples.
        prior: number of pseudo-recordings with these statistics that are added to the group.
    """
    n = statistics.n_recordings
    own_variance = np.maximum(statistics.squares / n - np.square(statistics.total / n), 0.0)
    mean = (statistics.total + prior * towards.mean) / (n + prior)
    variance = (n * own_variance + prior * towards.variance) / (n + prior)
    return Scale(mean.astype(np.float32), variance.astype(np.float32))


def scale_to(own: Scale, reference: Scale) -> Float32s:
    """Factor and offset that transform one mean and variance to another, float32 ``(2, features)``."""
    factor = np.sqrt(reference.variance / np.maximum(own.variance, 1e-12))
    scale: Float32s = np.stack([factor, reference.mean - factor * own.mean]).astype(np.float32)
    return scale


def identity_scale(reference: Scale) -> Float32s:
    """The scale of recordings without a speaker: factor one, offset zero; float32 ``(2, features)``."""
    return np.stack([np.ones_like(reference.mean), np.zeros_like(reference.mean)])


class SpeakerScales:
    """The scale of each example's speaker, from all or from random examples of that speaker.

    Args:
        features: of the examples, ``(examples, features)``.
        speakers: of the examples; examples with an empty name are not normalised.
        reference: mean and variance that every speaker's are transformed to.
    """

    def __init__(self, features: NDArray[np.floating[Any]], speakers: Sequence[str], reference: Scale) -> None:
        self._features, self._speakers, self._reference = features, speakers, reference
        self._members = _members(speakers)
        self._of_all: dict[str, Float32s] = {}

    def of_speakers(self, chosen: Iterable[int]) -> Float32s:
        """The scales of some examples, from all examples of their speakers; float32 ``(chosen, 2, features)``."""
        return np.stack([self._of_speaker(self._speakers[index]) for index in chosen])

    def of_random_examples(self, chosen: Sequence[int] | NDArray[np.intp], random: np.random.Generator) -> Float32s:
        """As `of_speakers`, but from each example itself and a random number of other examples of its speaker.

        The number of others is drawn uniformly on a logarithmic scale, so that a network trained on these works for
        speakers with one recording and for speakers with many.
        """
        used = [self._random_rows(index, random) for index in chosen]
        sizes = np.array([[len(rows)] for rows in used], np.float32)
        starts = (np.cumsum(sizes) - sizes[:, 0]).astype(np.intp)
        deviations = self._features[np.concatenate(used)] - self._reference.mean  # small, for sums in float32
        mean = np.add.reduceat(deviations, starts) / sizes
        variance = np.maximum(np.add.reduceat(np.square(deviations), starts) / sizes - np.square(mean), 0.0)
        mean = self._reference.mean + mean * (sizes / (sizes + _PRIOR_RECORDINGS))
        variance = (sizes * variance + _PRIOR_RECORDINGS * self._reference.variance) / (sizes + _PRIOR_RECORDINGS)
        factor = np.sqrt(self._reference.variance / np.maximum(variance, 1e-12))
        scales: Float32s = np.stack([factor, self._reference.mean - factor * mean], axis=1).astype(np.float32)
        scales[[not self._speakers[index] for index in chosen]] = identity_scale(self._reference)
        return scales

    def _of_speaker(self, name: str) -> Float32s:
        if name not in self._of_all:
            self._of_all[name] = self._scale(self._members[name]) if name else identity_scale(self._reference)
        return self._of_all[name]

    def _scale(self, rows: NDArray[np.intp]) -> Float32s:
        statistics = GroupStatistics()
        for begin in range(0, len(rows), 1024):
            statistics.add(self._features[rows[begin : begin + 1024]])
        return scale_to(shrunk(statistics, self._reference, _PRIOR_RECORDINGS), self._reference)

    def _random_rows(self, index: int, random: np.random.Generator) -> NDArray[np.intp]:
        """The example itself, and random other examples of its speaker."""
        rows = self._members.get(self._speakers[index])
        if rows is None:
            return np.array([index])
        most = min(len(rows), _MOST_EXAMPLES)
        n_used = min(int(np.exp(random.uniform(0.0, np.log(most + 1)))), most)
        others = rows[random.choice(len(rows), size=n_used - 1, replace=False)]
        return np.append(others[others != index], index)


def _members(speakers: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    names = np.array(speakers, dtype=object)
    return {name: np.flatnonzero(names == name) for name in sorted(set(speakers) - {""})}
