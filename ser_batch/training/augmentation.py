"""Spectrogram augmentation as TensorFlow operations: vocal tract length, tempo, masking, gain and mixup.

Every random choice is a function of a seed argument, so a resumed training repeats the same augmentation.
"""

from __future__ import annotations

from collections.abc import Callable

import librosa
import numpy as np
import tensorflow as tf

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.training.recipes import Augmentation

# Up to this frequency, warping multiplies by the factor; above, the mapping is linear and keeps the highest frequency
# (Jaitly & Hinton, "Vocal Tract Length Perturbation improves speech recognition", 2013).
_WARPED_TO_HZ = 4800.0


def augment(options: Augmentation, front_end: FrontEnd) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None:
    """Augmentation of single examples: ``(n_mels, n_frames)`` and a seed to the same number of mels; None if off.

    Crop and tempo are not applied if the front end pads: the number of frames must not change.
    """
    steps: list[Callable[[tf.Tensor, _Draws], tf.Tensor]] = []
    if options.warp:
        sources = _WarpSources(front_end)
        steps.append(lambda log_mel, draws: _warped(log_mel, sources, options, draws))
    if options.tempo and front_end.shorter == "keep":
        steps.append(lambda log_mel, draws: at_tempo(log_mel, tf.exp(draws.uniform(-options.tempo, options.tempo))))
    if options.crop_max_frames and front_end.shorter == "keep":
        steps.append(lambda log_mel, draws: _cropped(log_mel, options, draws))
    if options.time_mask:
        steps.append(lambda log_mel, draws: _masked(log_mel, 1, options.time_mask, draws))
    if options.mel_mask_bands:
        share = options.mel_mask_bands / front_end.n_mels
        steps.append(lambda log_mel, draws: _masked(log_mel, 0, share, draws))
    if options.gain_db:
        steps.append(lambda log_mel, draws: log_mel + draws.uniform(-options.gain_db, options.gain_db))
    if not steps:
        return None

    def augmented(log_mel: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        draws = _Draws(seed)
        for step in steps:
            log_mel = step(log_mel, draws)
        return tf.ensure_shape(log_mel, front_end.shape)

    traced: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = tf.function(augmented, autograph=False)
    return traced


class _Draws:
    """Random numbers from one seed, each from its own stream."""

    def __init__(self, seed: tf.Tensor) -> None:
        self._seed = seed
        self._n_drawn = 0

    def uniform(self, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
        """One float32 from ``low`` to ``high``."""
        self._n_drawn += 1
        stream = tf.random.experimental.stateless_fold_in(self._seed, self._n_drawn)
        return tf.random.stateless_uniform((), stream, low, high)


class _WarpSources:
    """The source band of each mel band of a warped spectrogram."""

    def __init__(self, front_end: FrontEnd) -> None:
        edges_hz = librosa.mel_frequencies(front_end.n_mels + 2, fmin=front_end.fmin_hz, fmax=front_end.fmax_hz)
        self._centres_hz = edges_hz[1:-1]
        self._top_hz = front_end.fmax_hz
        # Bands are evenly spaced on the mel scale. Fractional band of 1024 frequencies from 0 Hz to the highest.
        edges_mel = librosa.hz_to_mel(edges_hz)
        mels = librosa.hz_to_mel(np.linspace(0.0, self._top_hz, 1024))
        self._bands = (mels - edges_mel[1]) / (edges_mel[1] - edges_mel[0])

    def places(self, factor: tf.Tensor) -> tf.Tensor:
        """Fractional source band of each band, float32 ``(n_mels,)``.

        Jaitly & Hinton, 2013, eq. 1: frequencies below a bend are multiplied by the factor; those above it are
        mapped linearly, and the highest frequency does not change.
        """
        centres = tf.constant(self._centres_hz, tf.float32)
        bend = _WARPED_TO_HZ * tf.minimum(factor, 1.0) / factor
        slope = (self._top_hz - bend * factor) / (self._top_hz - bend)
        warped = tf.where(centres <= bend, centres * factor, self._top_hz - slope * (self._top_hz - centres))
        return _interpolated(tf.constant(self._bands, tf.float32), warped * (1023.0 / self._top_hz))


def warped(log_mel: tf.Tensor, factor: float | tf.Tensor, front_end: FrontEnd) -> tf.Tensor:
    """The log-mel ``(n_mels, n_frames)`` with each frequency's level taken from ``factor`` times that frequency."""
    return _interpolated(log_mel, _WarpSources(front_end).places(tf.convert_to_tensor(factor, tf.float32)))


def _warped(log_mel: tf.Tensor, sources: _WarpSources, options: Augmentation, draws: _Draws) -> tf.Tensor:
    factor = draws.uniform(1.0 - options.warp, 1.0 + options.warp)
    factor = tf.where(draws.uniform() < options.warp_share, factor, 1.0)
    return _interpolated(log_mel, sources.places(factor))


def _interpolated(values: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """The rows of ``values``, interpolated at fractional indices, which are clipped to the range of rows."""
    last = tf.shape(values)[0] - 1
    places = tf.clip_by_value(places, 0.0, tf.cast(last, tf.float32))
    below = tf.cast(places, tf.int32)
    share = places - tf.cast(below, tf.float32)
    if values.shape.rank == 2:
        share = share[:, tf.newaxis]
    return tf.gather(values, below) * (1.0 - share) + tf.gather(values, tf.minimum(below + 1, last)) * share


def at_tempo(log_mel: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """The log-mel ``(n_mels, n_frames)`` at ``factor`` times the tempo: ``n_frames / factor`` frames."""
    n_frames = tf.shape(log_mel)[1]
    n_new = tf.maximum(tf.cast(tf.round(tf.cast(n_frames, tf.float32) / factor), tf.int32), 1)
    places = tf.linspace(0.0, tf.cast(n_frames - 1, tf.float32), n_new)
    return tf.transpose(_interpolated(tf.transpose(log_mel), places))


def _cropped(log_mel: tf.Tensor, options: Augmentation, draws: _Draws) -> tf.Tensor:
    n_frames = tf.shape(log_mel)[1]
    longest = options.crop_max_frames + 1
    length = tf.cast(draws.uniform(float(options.crop_min_frames), float(longest)), tf.int32)
    length = tf.minimum(length, n_frames)
    first = tf.cast(draws.uniform() * tf.cast(n_frames - length + 1, tf.float32), tf.int32)
    first = tf.minimum(first, n_frames - length)
    return log_mel[:, first : first + length]


def _masked(log_mel: tf.Tensor, axis: int, largest_share: float, draws: _Draws) -> tf.Tensor:
    """The log-mel with one random range along an axis set to its mean (Park et al., "SpecAugment", 2019)."""
    size = tf.cast(tf.shape(log_mel)[axis], tf.float32)
    width = draws.uniform(0.0, largest_share) * size
    first = draws.uniform() * (size - width)
    places = tf.range(size)
    hidden = (places >= first) & (places < first + width)
    hidden = hidden[tf.newaxis, :] if axis == 1 else hidden[:, tf.newaxis]
    return tf.where(hidden, tf.reduce_mean(log_mel), log_mel)


def mixup(options: Augmentation) -> Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None:
    """Augmentation of batches: each example is mixed with its counterpart in the reversed batch; None if off."""
    if not options.mixup:
        return None

    def mix(log_mels: tf.Tensor, labels: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # A beta variate is the ratio of one gamma variate to the sum of two.
        gammas = tf.random.stateless_gamma((2,), seed, options.mixup)
        share = tf.reduce_max(gammas) / tf.reduce_sum(gammas)
        others = tf.reverse(log_mels, [0])
        both = share * log_mels + (1.0 - share) * others
        # Where one of the two is padding, the other is used unmixed.
        both = tf.where(others == PADDING_DB, log_mels, tf.where(log_mels == PADDING_DB, others, both))
        return both, share * labels + (1.0 - share) * tf.reverse(labels, [0])

    traced: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] = tf.function(mix, autograph=False)
    return traced
