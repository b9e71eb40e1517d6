"""Spectrogram augmentation as TensorFlow operations: vocal tract length, tempo, channels, masking, gain and mixup.

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

# Frequencies at which a random equaliser has random gains, and their standard deviation.
_EQUALISER_HZ = (50.0, 150.0, 400.0, 1000.0, 2500.0, 5000.0, 8000.0)
_EQUALISER_DB = 3.0


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
    if options.channel_share:
        channel = _Channel(front_end)
        steps.append(lambda log_mel, draws: channel.applied(log_mel, options.channel_share, draws))
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
        return tf.random.stateless_uniform((), self._stream(), low, high)

    def normal(self, shape: tf.Tensor | tuple[int, ...]) -> tf.Tensor:
        """Standard normal numbers, float32."""
        return tf.random.stateless_normal(shape, self._stream())

    def _stream(self) -> tf.Tensor:
        self._n_drawn += 1
        return tf.random.experimental.stateless_fold_in(self._seed, self._n_drawn)


class _Channel:
    """Random recording channels, applied to log-mels: microphones, rooms, telephones and codecs."""

    def __init__(self, front_end: FrontEnd) -> None:
        edges_hz = librosa.mel_frequencies(front_end.n_mels + 2, fmin=front_end.fmin_hz, fmax=front_end.fmax_hz)
        octaves = np.log2(np.maximum(edges_hz[1:-1], 50.0) / 1000.0)
        knots = np.log2(np.array(_EQUALISER_HZ) / 1000.0)
        # Linear interpolation between the knots, as a matrix ``(n_mels, knots)``.
        self._equaliser = np.stack([np.interp(octaves, knots, row) for row in np.eye(len(knots))], 1).astype(np.float32)
        self._octaves = octaves.astype(np.float32)
        self._floor = front_end.db_floor
        self._frames_per_sec = front_end.rate_hz / front_end.hop_length

    def applied(self, log_mel: tf.Tensor, share: float, draws: _Draws) -> tf.Tensor:
        """The log-mel ``(n_mels, n_frames)``, with probability ``share`` as recorded through a random channel."""
        gains = tf.linalg.matvec(self._equaliser, _EQUALISER_DB * draws.normal((len(_EQUALISER_HZ),)))
        power = tf.pow(10.0, (log_mel + gains[:, tf.newaxis]) / 10.0)
        power = tf.where(draws.uniform() < 0.3, self._reverberated(power, draws), power)
        cut = tf.experimental.numpy.log2(draws.uniform(3.0, 8.0))
        loss_db = tf.where(self._octaves > cut, 60.0 * (self._octaves - cut) + 3.0, 0.0)
        passed = power * tf.pow(10.0, -loss_db / 10.0)[:, tf.newaxis]
        power = tf.where(draws.uniform() < 0.4, passed, power)
        power = tf.where(draws.uniform() < 0.7, power + self._noise(power, draws), power)
        varied = 10.0 * tf.experimental.numpy.log10(power + self._floor)
        return tf.where(draws.uniform() < share, varied, log_mel)

    def _reverberated(self, power: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """Power with an exponential decay of .1 to .4 s for 60 dB."""
        n_decay = int(0.4 * self._frames_per_sec)
        decay = tf.pow(10.0, -6.0 * tf.range(1.0, n_decay + 1.0) / (draws.uniform(0.1, 0.4) * self._frames_per_sec))
        kernel = tf.concat([0.05 * decay[::-1], [1.0]], 0)  # a convolution in TensorFlow is a correlation
        padded = tf.pad(power, [(0, 0), (n_decay, 0)])[..., tf.newaxis]
        return tf.nn.conv1d(padded, kernel[:, tf.newaxis, tf.newaxis], 1, "VALID")[..., 0]

    def _noise(self, power: tf.Tensor, draws: _Draws) -> tf.Tensor:
        """Noise between white and pink, 8 to 45 dB below the recording's mean power."""
        shape = tf.pow(10.0, draws.uniform(-0.6, 0.0) * self._octaves)
        mean = tf.reduce_sum(tf.reduce_mean(power, 1)) * tf.pow(10.0, -draws.uniform(8.0, 45.0) / 10.0)
        # The power of a band of noise varies over time as a chi-squared variate, here of four degrees of freedom.
        fluctuation = sum(tf.square(draws.normal(tf.shape(power))) for _ in range(4)) / 4.0
        return mean * (shape / tf.reduce_sum(shape))[:, tf.newaxis] * fluctuation


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
    n_starts = tf.maximum(n_frames - length + 1, 1)
    first = tf.minimum(tf.cast(draws.uniform() * tf.cast(n_starts, tf.float32), tf.int32), n_starts - 1)
    return tf.gather(log_mel, (first + tf.range(length)) % n_frames, axis=1)


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
