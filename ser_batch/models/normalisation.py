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


def speaker_scales(features: NDArray[np.floating[Any]], speakers: Sequence[str], reference: Scale) -> Float32s:
    """The scale of every example's speaker, from all of that speaker's examples.

    Args:
        features: of the examples, ``(examples, features)``.
        speakers: of the examples; examples with an empty name are not normalised.
        reference: mean and variance that every speaker's are transformed to.

    Returns:
        float32 ``(examples, 2, features)``.
    """
    scales = np.repeat(identity_scale(reference)[None], len(speakers), axis=0)
    for rows in _members(speakers).values():
        scales[rows] = _speaker_scale(features[rows], reference)
    return scales


def random_speaker_scales(
    features: NDArray[np.floating[Any]], speakers: Sequence[str], reference: Scale, random: np.random.Generator
) -> Float32s:
    """As `speaker_scales`, but from each example itself and a random number of other examples of its speaker.

    The number of others is drawn uniformly on a logarithmic scale, so that a network trained on these works for
    speakers with one recording and for speakers with many.
    """
    members = _members(speakers)
    scales = []
    for index, name in enumerate(speakers):
        if not name:
            scales.append(identity_scale(reference))
            continue
        rows = members[name]
        n_used = min(int(np.exp(random.uniform(0.0, np.log(len(rows) + 1)))), len(rows))
        others = random.choice(rows, size=n_used - 1, replace=False)
        scales.append(_speaker_scale(features[np.union1d(others, [index])], reference))
    return np.stack(scales)


def _speaker_scale(features: NDArray[np.floating[Any]], reference: Scale) -> Float32s:
    return scale_to(shrunk(GroupStatistics().add(features), reference, _PRIOR_RECORDINGS), reference)


def _members(speakers: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    names = np.array(speakers, dtype=object)
    return {name: np.flatnonzero(names == name) for name in sorted(set(speakers) - {""})}
