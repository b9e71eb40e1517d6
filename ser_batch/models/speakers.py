"""Speaker normalisation: each speaker's log-mels brought to the level and range of the training examples.

It uses what a speaker's recordings have in common, not their labels: with many recordings of each speaker
at hand, what is left of a log-mel tells less of who speaks and through what microphone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.audio.waveforms import Float32s
from ser_batch.models.crnn import InputScale
from ser_batch.records.datasets import BandSums

# A speaker of whom little is heard is taken to be average: as if so many average frames had been heard, too.
_PRIOR_FRAMES = 100.0


def speaker_scales(sums: BandSums, speakers: Sequence[str], reference: InputScale) -> Float32s:
    """What each example is multiplied by, and what is added then, with all that is known of its speaker.

    Args:
        sums: of the examples.
        speakers: of the examples; an empty name is nobody's, and its example stays as it is.
        reference: what every speaker's mean and variance are brought to.

    Returns:
        float32 ``(examples, 2, n_mels)``.
    """
    members = _members(speakers)
    groups = [members[speaker] if speaker else None for speaker in speakers]
    return _scales(sums, groups, reference)


def random_speaker_scales(
    sums: BandSums, speakers: Sequence[str], reference: InputScale, random: np.random.Generator
) -> Float32s:
    """As `speaker_scales`, but each with what is known from the example and some random others of its speaker.

    How many others is drawn evenly on a logarithmic scale, so that a network trained on these has met
    speakers of whom there is one recording, and speakers of whom there are many.
    """
    members = _members(speakers)
    groups: list[NDArray[np.intp] | None] = []
    for index, speaker in enumerate(speakers):
        if not speaker:
            groups.append(None)
            continue
        everyone = members[speaker]
        n_heard = int(np.exp(random.uniform(0.0, np.log(len(everyone) + 1))))
        others = random.choice(everyone, size=min(n_heard, len(everyone)) - 1, replace=False)
        groups.append(np.union1d(others, [index]))
    return _scales(sums, groups, reference)


def _members(speakers: Sequence[str]) -> dict[str, NDArray[np.intp]]:
    names = np.array(speakers, dtype=object)
    return {name: np.flatnonzero(names == name) for name in set(speakers)}


def _scales(sums: BandSums, groups: Sequence[NDArray[np.intp] | None], reference: InputScale) -> Float32s:
    unchanged = np.stack([np.ones_like(reference.mean), np.zeros_like(reference.mean)])
    return np.stack(
        [
            unchanged
            if group is None
            else speaker_scale(
                sums.frames[group].sum(), sums.totals[group].sum(axis=0), sums.squares[group].sum(axis=0), reference
            )
            for group in groups
        ]
    )


def speaker_scale(
    frames: NDArray[np.float64] | float, total: NDArray[np.float64], squares: NDArray[np.float64], reference: InputScale
) -> Float32s:
    """What a speaker's log-mels are multiplied by, and what is added then; float32 ``(2, n_mels)``.

    Args:
        frames: of all that was heard of the speaker.
        total, squares: ``(n_mels,)``: sums over these frames of the log-mels and of their squares.
        reference: what the speaker's mean and variance are brought to.
    """
    wanted_mean = reference.mean.astype(np.float64)
    wanted_square = reference.variance.astype(np.float64) + np.square(wanted_mean)
    n_frames = frames + _PRIOR_FRAMES
    mean = (total + _PRIOR_FRAMES * wanted_mean) / n_frames
    square = (squares + _PRIOR_FRAMES * wanted_square) / n_frames
    factor = np.sqrt(reference.variance / np.maximum(square - np.square(mean), 1e-6))
    scale: Float32s = np.stack([factor, wanted_mean - factor * mean]).astype(np.float32)
    return scale


def scaled(log_mels: Float32s, scales: Float32s) -> Float32s:
    """A batch of log-mels ``(batch, n_mels, n_frames)`` with scales ``(batch, 2, n_mels)``; padding stays padding."""
    changed = log_mels * scales[:, 0, :, None] + scales[:, 1, :, None]
    return np.where(log_mels == PADDING_DB, log_mels, changed)
