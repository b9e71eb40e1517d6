"""Standardisation of features by statistics of the training examples and of each speaker.

Speaker normalisation transforms each speaker's features to the mean and variance of the training examples, which
removes differences of voices and microphones. It uses no labels. NumPy only, as infer workers import this module.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PlainSerializer, PlainValidator

from ser_batch.audio.decoders import Float32s

# Shrinkage: number of pseudo-recordings with the training statistics that are added to every speaker's statistics.
_PRIOR_RECORDINGS = 10.0


def _vector(values: Any) -> Float32s:
    try:
        return np.array(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError("should be a list of numbers") from None


# Float32 ``(features,)``; in JSON a list of numbers.
Vector = Annotated[Float32s, PlainValidator(_vector), PlainSerializer(np.ndarray.tolist)]


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and variance of features over the training examples, float32 ``(features,)`` each."""

    mean: Vector
    variance: Vector


def measure_scale(batches: Iterable[NDArray[np.floating[Any]]]) -> Scale:
    """Mean and variance over all batches ``(batch, features)``."""
    n_examples = 0
    total = squares = np.zeros(1)
    for batch in batches:
        exact = batch.astype(np.float64)
        n_examples += len(exact)
        total = total + exact.sum(axis=0)
        squares = squares + np.square(exact).sum(axis=0)
    mean = total / n_examples
    variance = np.maximum(squares / n_examples - np.square(mean), 0.0)
    return Scale(mean.astype(np.float32), variance.astype(np.float32))


@dataclass
class SpeakerStatistics:
    """Sums and sums of squares over a speaker's recordings, float64 ``(features,)`` each."""

    n_recordings: int
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, features: NDArray[np.floating[Any]]) -> "SpeakerStatistics":
        """Statistics of features ``(recordings, features)``."""
        exact = features.astype(np.float64)
        return cls(len(exact), exact.sum(axis=0), np.square(exact).sum(axis=0))

    def add(self, other: "SpeakerStatistics") -> None:
        """Merge statistics of the same speaker."""
        self.n_recordings += other.n_recordings
        self.total = self.total + other.total
        self.squares = self.squares + other.squares


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


def speaker_scale(statistics: SpeakerStatistics, reference: Scale) -> Float32s:
    """Factor and offset of a speaker's features, float32 ``(2, features)``.

    Args:
        statistics: of the speaker.
        reference: mean and variance that the speaker's are transformed to.
    """
    n, prior = statistics.n_recordings, _PRIOR_RECORDINGS
    own_variance = np.maximum(statistics.squares / n - np.square(statistics.total / n), 0.0)
    mean = (statistics.total + prior * reference.mean) / (n + prior)
    variance = (n * own_variance + prior * reference.variance) / (n + prior)
    factor = np.sqrt(reference.variance / np.maximum(variance, 1e-12))
    scale: Float32s = np.stack([factor, reference.mean - factor * mean]).astype(np.float32)
    return scale


def scales_of_speakers(
    recordings: Iterable[tuple[str, NDArray[np.floating[Any]]]], reference: Scale
) -> dict[str, Float32s]:
    """Every speaker's scale ``(2, features)``, from all of their recordings.

    Args:
        recordings: speaker and features ``(features,)`` of each; recordings with an empty name are not used.
        reference: mean and variance that every speaker's are transformed to.
    """
    by_speaker: dict[str, SpeakerStatistics] = {}
    for speaker, features in recordings:
        if speaker in by_speaker:
            by_speaker[speaker].add(SpeakerStatistics.of(features[None]))
        elif speaker:
            by_speaker[speaker] = SpeakerStatistics.of(features[None])
    return {speaker: speaker_scale(statistics, reference) for speaker, statistics in by_speaker.items()}


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
    of_speaker = {
        name: speaker_scale(SpeakerStatistics.of(features[rows]), reference)
        for name, rows in _members(speakers).items()
    }
    return scales_of(speakers, of_speaker, reference)


def scales_of(speakers: Sequence[str], of_speaker: Mapping[str, Float32s], reference: Scale) -> Float32s:
    """Each speaker's scale, float32 ``(speakers, 2, features)``; `identity_scale` for unknown names."""
    identity = identity_scale(reference)
    return np.stack([of_speaker.get(name, identity) for name in speakers])


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
        scales.append(speaker_scale(SpeakerStatistics.of(features[np.union1d(others, [index])]), reference))
    return np.stack(scales)


def _members(speakers: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    names = np.array(speakers, dtype=object)
    return {name: np.flatnonzero(names == name) for name in sorted(set(speakers) - {""})}
