"""Functionals: a recording as a whole in a few hundred numbers, computed from its log-mel spectrogram.

First every frame is described by a few curves over time (pitch, level, the shape of the spectrum: most of those of
eGeMAPS, Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective
Computing", 2016). Then each curve is summed up by its mean, deviation, percentiles and speed of change, over the
loud frames and over the voiced ones; how the spectrum's cepstra vary together, and how fast its bands are modulated,
is added. All of it in pure Keras operations on any backend; frames of padding weigh nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.logmels import PADDING_DB, mel_scale
from ser_batch.errors import TrainingError
from ser_batch.models.scales import Scale

if TYPE_CHECKING:
    import keras

# Candidates for the pitch: 24 to the octave, over three octaves.
_PITCHES_HZ = 70.0 * 2.0 ** (np.arange(73) / 24.0)
# A harmonic's ridge in the spectrum is about so wide, and harmonics above this are too close to tell.
_RIDGE_HZ = 14.0
_HARMONICS_TO_HZ = 2000.0
# Frames within this of the loud ones (the 95th percentile of level) count as speech.
_LOUD_DB = 30.0
_N_COARSE = 64
_N_CEPSTRA = 24
_N_SHAPES = 13
_N_CORRELATED = 16
_MODULATION_EDGES_HZ = (0.45, 1.5, 3.0, 5.0, 8.0, 12.0, 18.0, 31.3)
_N_MODULATED = 8
_SMALL = 1e-6
# Of power.
_NEPERS_PER_DB = float(np.log(10.0) / 10.0)
# Standardised functionals are cut there: one odd value must not decide.
_FARTHEST = 5.0


@dataclass(frozen=True)
class FunctionalOptions:
    """What recipes vary in the network.

    Attributes:
        dropout: share of the functionals dropped in training.
        l2: penalty on the softmax layer's squared weights.
    """

    dropout: float
    l2: float


def functionals(log_mel: Any, front_end: FrontEnd) -> dict[str, Any]:
    """The functionals of a batch, in groups.

    Args:
        log_mel: a Keras tensor, float32 ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`.
        front_end: what it was made with: a multiple of 64 bands, as narrow as harmonics need to show.

    Returns:
        Keras tensors, float32 ``(batch, functionals of the group)``.

    Raises:
        TrainingError: the front end's bands do not fit.
    """
    from keras import ops

    if front_end.n_mels % _N_COARSE:
        raise TrainingError(
            f"functionals need a multiple of {_N_COARSE} mel bands, and this front end has {front_end.n_mels}; "
            "build the records with --front-end speech"
        )
    real = ops.cast(ops.greater(log_mel[:, 0], PADDING_DB / 2), "float32")  # (batch, frames)
    fine = ops.transpose(log_mel, (0, 2, 1))
    fine = ops.where(ops.expand_dims(real, -1) > 0, fine, float(10.0 * np.log10(front_end.db_floor)))
    spectrum = _Spectrum(fine, front_end)
    level = spectrum.level
    (loudest,) = _quantiles(_column(level), real, (0.95,))
    loud = real * ops.cast(ops.greater(level, loudest - _LOUD_DB), "float32")
    saliences = _saliences(fine, front_end)
    salience = ops.max(saliences, -1)
    mean, deviation = _moments(_column(salience), loud)
    voiced = loud * ops.cast(ops.greater(salience, mean - 0.5 * deviation), "float32")
    pitch = _pitch(saliences)
    curves = ops.stack([pitch, salience, level, *spectrum.curves()], -1)
    cepstra = ops.matmul(spectrum.coarse, _cosines(_N_COARSE, _N_CEPSTRA))
    correlated = cepstra[..., :_N_CORRELATED]
    ties = ((pitch, level, loud), (pitch, level, voiced), (spectrum.centroid, level, loud))
    frames_per_sec = front_end.rate_hz / front_end.hop_length
    return {
        "voiced": _curve_statistics(curves, voiced),
        "loud": _curve_statistics(curves, loud),
        "rates": _rates(spectrum.loudness, voiced, loud, real, frames_per_sec),
        "ties": ops.stack([_correlation(*tie) for tie in ties], -1),
        "cepstra": ops.concatenate(
            [
                _moments(cepstra, real)[1],
                _moments(cepstra, loud)[1],
                _change(cepstra, real, 1),
                _change(cepstra, real, 4),
            ],
            -1,
        ),
        "voiced cepstra": _curve_statistics(cepstra[..., :_N_SHAPES], voiced),
        "correlations": _correlations(correlated, loud),
        "voiced correlations": _correlations(correlated, voiced),
        "change correlations": _correlations(*_steps(correlated, real, 4)),
        "modulations": _modulations(spectrum.coarse, real, frames_per_sec),
        "saliences": _mean(saliences, voiced),
    }


def functional_extractor(front_end: FrontEnd, centre_files: bool = False) -> keras.Model:
    """From log-mels to functionals: a model without weights.

    Log-mels of any length; frames of `PADDING_DB` at the end change nothing.

    Args:
        front_end: what its input is made with.
        centre_files: take each recording's own mean from every mel band first.

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)`` to ``(batch, features)``.
    """
    from keras import Input, Model

    log_mel = Input(front_end.shape, name="log_mel")
    return Model(log_mel, _features(log_mel, front_end, centre_files)[0], name="functionals")


def functional_head(
    front_end: FrontEnd, n_labels: int, options: FunctionalOptions, scale: Scale, by_speaker: bool = False
) -> keras.Model:
    """From functionals to labels: standardised, then one softmax layer: multinomial logistic regression.

    Args:
        front_end: what the functionals are made from.
        n_labels: width of the softmax.
        options: what a recipe chooses.
        scale: of the training examples' functionals.
        by_speaker: there is a second input, ``(batch, 2, features)``: features are multiplied by the first and
            added to the second, which brings each speaker's to those of all.

    Returns:
        A model from ``(batch, features)`` to probabilities ``(batch, n_labels)``.
    """
    from keras import Input, Model

    _, sizes = _features(Input(front_end.shape), front_end, False)
    features = Input((sum(sizes),), name="features")
    inputs, outputs = _classified(features, sizes, n_labels, options, scale, by_speaker)
    return Model([features, *inputs], outputs, name="head")


def functional_network(
    front_end: FrontEnd,
    n_labels: int,
    options: FunctionalOptions,
    scale: Scale,
    centre_files: bool = False,
    by_speaker: bool = False,
) -> keras.Model:
    """`functional_extractor` and `functional_head` in one: from log-mels to probabilities ``(batch, n_labels)``.

    Its weights are the head's.
    """
    from keras import Input, Model

    log_mel = Input(front_end.shape, name="log_mel")
    features, sizes = _features(log_mel, front_end, centre_files)
    inputs, outputs = _classified(features, sizes, n_labels, options, scale, by_speaker)
    return Model([log_mel, *inputs], outputs, name="functional_network")


def _features(log_mel: Any, front_end: FrontEnd, centre_files: bool) -> tuple[Any, list[int]]:
    """All functionals ``(batch, features)``, and how many there are in each group."""
    from keras import layers

    groups = functionals(_centred(log_mel) if centre_files else log_mel, front_end)
    return layers.Concatenate(name="functionals")(list(groups.values())), [group.shape[-1] for group in groups.values()]


def _classified(
    features: Any, sizes: Sequence[int], n_labels: int, options: FunctionalOptions, scale: Scale, by_speaker: bool
) -> tuple[list[Any], Any]:
    """Further inputs, and the output."""
    from keras import Input, layers, ops, regularizers

    inputs = []
    if by_speaker:
        speaker = Input((2, sum(sizes)), name="speaker_scale")
        inputs.append(speaker)
        features = features * speaker[:, 0] + speaker[:, 1]
    x = ops.clip((features - scale.mean) / np.sqrt(scale.variance + _SMALL), -_FARTHEST, _FARTHEST)
    # Every group's variance in all is the same, whatever its size.
    shares = np.concatenate([np.full(size, size**-0.5) for size in sizes])
    x = x * _constant(shares / np.sqrt(np.square(shares).mean()))
    x = layers.Dropout(options.dropout, name="drop")(x)
    emotion = layers.Dense(
        n_labels,
        activation="softmax",
        kernel_initializer="zeros",
        kernel_regularizer=regularizers.L2(options.l2),
        dtype="float32",
        name="emotion",
    )
    return inputs, emotion(x)


def _centred(log_mel: Any) -> Any:
    from keras import ops

    real = ops.cast(ops.greater(log_mel[:, :1], PADDING_DB / 2), "float32")
    mean = ops.sum(log_mel * real, -1, keepdims=True) / ops.maximum(ops.sum(real, -1, keepdims=True), 1.0)
    return ops.where(real > 0, log_mel - mean, log_mel)


class _Spectrum:
    """Curves over time that describe the spectrum's shape; Keras tensors ``(batch, frames)``."""

    def __init__(self, fine: Any, front_end: FrontEnd) -> None:
        from keras import ops

        scale = mel_scale(front_end)
        # Mel filters have unit area; times their width, a band's power is what lies in it.
        widths_hz = np.gradient(scale.centres_hz)
        n_joined = front_end.n_mels // _N_COARSE
        groups = np.kron(np.eye(_N_COARSE), np.ones((n_joined, 1)))
        joined = (groups * (widths_hz / widths_hz[0])[:, None]).astype(np.float32)
        self._power = ops.matmul(ops.exp(fine * _NEPERS_PER_DB), joined)  # (batch, frames, coarse bands)
        self._centres_hz = scale.centres_hz.reshape(_N_COARSE, n_joined).mean(axis=1)
        self.coarse = _decibels(self._power, front_end.db_floor)
        total = ops.sum(self._power, -1)
        self.level = _decibels(total, front_end.db_floor)
        self._shares = self._power / ops.expand_dims(total, -1)
        octaves = np.log2(self._centres_hz / 1000.0)
        self.centroid = ops.sum(self._shares * _constant(octaves), -1)
        self._octaves = octaves
        # Zwicker's loudness grows with about the .3rd power of a band's power.
        self.loudness = ops.sqrt(ops.sum(ops.exp(self.coarse * (0.3 * _NEPERS_PER_DB)), -1))

    def _band_db(self, low_hz: float, high_hz: float) -> Any:
        from keras import ops

        inside = (self._centres_hz >= low_hz) & (self._centres_hz < high_hz)
        return _decibels(ops.sum(self._power * _constant(inside), -1), _SMALL)

    def _slope(self, low_hz: float, high_hz: float) -> Any:
        """The straight line of least squares, in dB per kHz."""
        from keras import ops

        inside = (self._centres_hz >= low_hz) & (self._centres_hz < high_hz)
        khz = np.where(inside, (self._centres_hz - self._centres_hz[inside].mean()) / 1000.0, 0.0)
        return ops.sum(self.coarse * _constant(khz / (khz @ khz)), -1)

    def _peak(self, low_hz: float, high_hz: float) -> Any:
        """Where a formant may be: the softened place of the highest band, in octaves over 500 Hz."""
        from keras import ops

        inside = np.flatnonzero((self._centres_hz >= low_hz) & (self._centres_hz < high_hz))
        bands = slice(int(inside[0]), int(inside[-1]) + 1)
        weights = ops.softmax(self.coarse[..., bands] / 4.0, -1)
        return ops.sum(weights * _constant(np.log2(self._centres_hz[bands] / 500.0)), -1)

    def curves(self) -> list[Any]:
        """Loudness, centroid, spread, alpha ratio, Hammarberg index, share of high frequencies, three slopes,
        flux, entropy, four cepstra, three peaks.
        """
        from keras import ops

        distance = ops.expand_dims(self.centroid, -1) - _constant(self._octaves)
        spread = ops.sqrt(ops.sum(self._shares * ops.square(distance), -1) + _SMALL)
        alpha = self._band_db(1000, 5000) - self._band_db(50, 1000)
        n_low, n_high = (int((self._centres_hz < hz).sum()) for hz in (2000, 5000))
        hammarberg = ops.max(self.coarse[..., :n_low], -1) - ops.max(self.coarse[..., n_low:n_high], -1)
        high = self._band_db(4000, 8000) - self.level
        shape = self.coarse - ops.mean(self.coarse, -1, keepdims=True)
        flux = ops.sqrt(ops.mean(ops.square(shape[:, 1:] - shape[:, :-1]), -1) + _SMALL)
        flux = ops.pad(flux, [[0, 0], [1, 0]])
        entropy = -ops.sum(self._shares * ops.log(self._shares + 1e-9), -1)
        cepstra = ops.matmul(self.coarse, _cosines(_N_COARSE, 5)[:, 1:])
        slopes = [self._slope(*range_hz) for range_hz in ((50, 500), (500, 1500), (1500, 5000))]
        peaks = [self._peak(*range_hz) for range_hz in ((200, 1000), (800, 2600), (2000, 3800))]
        return [
            self.loudness, self.centroid, spread, alpha, hammarberg, high, *slopes, flux, entropy,
            *(cepstra[..., number] for number in range(4)), *peaks,
        ]  # fmt: skip


def _saliences(fine: Any, front_end: FrontEnd) -> Any:
    """How far each candidate for the pitch stands out, ``(batch, frames, pitches)``.

    As far as its harmonics lie above the valleys between them, in decibels: a comb of ridges, weighted down with
    their number (after the harmonic summation of Hermes, "Measurement of pitch by subharmonic summation", 1988).
    """
    from keras import ops

    heard = ops.maximum(fine, ops.max(fine, axis=(1, 2), keepdims=True) - 70.0)
    return ops.matmul(heard, _combs(mel_scale(front_end).centres_hz)) / 10.0


def _pitch(saliences: Any) -> Any:
    """The pitch in octaves over the lowest candidate, ``(batch, frames)``: their mean, weighted by salience."""
    from keras import ops

    octaves = np.log2(_PITCHES_HZ / _PITCHES_HZ[0])
    return ops.sum(ops.softmax(1.5 * saliences, -1) * _constant(octaves), -1)


def _combs(centres_hz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Float32 ``(n_mels, pitches)``: what each band adds to each candidate."""
    combs = np.zeros((len(centres_hz), len(_PITCHES_HZ)))
    for comb, pitch_hz in zip(combs.T, _PITCHES_HZ, strict=True):
        for harmonic in range(1, int(_HARMONICS_TO_HZ // pitch_hz) + 1):
            ridge, before, after = (
                np.exp(-0.5 * np.square((centres_hz - place * pitch_hz) / _RIDGE_HZ))
                for place in (harmonic, harmonic - 0.5, harmonic + 0.5)
            )
            comb += 0.9**harmonic / np.sqrt(harmonic) * (ridge - 0.5 * before - 0.5 * after)
        comb /= np.sqrt(np.square(comb).sum())
    return combs.astype(np.float32)


def _curve_statistics(curves: Any, weights: Any) -> Any:
    """Mean, deviation, five percentiles and their range, change up and down, over one frame and four, skewness."""
    from keras import ops

    mean, deviation = _moments(curves, weights)
    percentiles = _quantiles(curves, weights, (0.1, 0.2, 0.5, 0.8, 0.9))
    steps, both = _steps(curves, weights, 1)
    step_weights = ops.expand_dims(both, -1)
    total = ops.sum(step_weights, 1) + _SMALL
    rising, falling = (ops.cast(ops.greater(sign * steps, 0.0), "float32") * step_weights for sign in (1.0, -1.0))
    scaled = (curves - ops.expand_dims(mean, 1)) / ops.expand_dims(deviation, 1)
    skewness = _mean(scaled * scaled * scaled, weights)
    return ops.concatenate(
        [
            mean,
            deviation,
            *percentiles,
            percentiles[3] - percentiles[1],
            ops.sum(step_weights * ops.abs(steps), 1) / total,
            ops.sqrt(ops.sum(step_weights * ops.square(steps), 1) / total + _SMALL),
            ops.sum(rising * steps, 1) / (ops.sum(rising, 1) + 1.0),
            ops.sum(falling * steps, 1) / (ops.sum(falling, 1) + 1.0),
            _change(curves, weights, 4),
            skewness,
        ],
        -1,
    )


def _rates(loudness: Any, voiced: Any, loud: Any, real: Any, frames_per_sec: float) -> Any:
    """Peaks of loudness and voiced stretches per second, mean lengths of stretches, shares, length."""
    from keras import ops

    n_frames = ops.sum(real, 1)
    (median,) = _quantiles(_column(loudness), real, (0.5,))
    middle, before, after = loudness[:, 1:-1], loudness[:, :-2], loudness[:, 2:]
    peaks = ops.cast((middle > after) & (middle >= before) & (middle > median), "float32") * real[:, 2:]
    lengths = []
    for inside in (voiced, real - voiced):
        n_stretches = ops.sum(inside[:, 1:] * (1.0 - inside[:, :-1]), 1) + inside[:, 0]
        lengths.append((n_stretches, ops.log(ops.sum(inside, 1) / ops.maximum(n_stretches, 1.0) + 1.0)))
    (n_voiced, voiced_length), (_, unvoiced_length) = lengths
    return ops.stack(
        [
            ops.sum(peaks, 1) / n_frames * frames_per_sec,
            n_voiced / n_frames * frames_per_sec,
            voiced_length,
            unvoiced_length,
            ops.sum(voiced, 1) / n_frames,
            ops.sum(loud, 1) / n_frames,
            ops.log(n_frames),
        ],
        -1,
    )


def _correlations(curves: Any, weights: Any) -> Any:
    """How each two curves vary together: Pearson's correlations, each pair once."""
    from keras import ops

    size = curves.shape[-1]
    mean, deviation = _moments(curves, weights)
    centred = curves - ops.expand_dims(mean, 1)
    weighted = ops.transpose(centred * ops.expand_dims(weights, -1), (0, 2, 1))
    covariances = ops.matmul(weighted, centred) / (ops.sum(weights, 1)[:, None, None] + _SMALL)
    correlations = covariances / (ops.expand_dims(deviation, 1) * ops.expand_dims(deviation, 2) + 1e-3)
    rows, columns = np.triu_indices(size, 1)
    return ops.take(ops.reshape(correlations, (-1, size * size)), rows * size + columns, axis=1)


def _correlation(first: Any, second: Any, weights: Any) -> Any:
    from keras import ops

    pair = ops.stack([first, second], -1)
    mean, deviation = _moments(pair, weights)
    scaled = (pair - ops.expand_dims(mean, 1)) / (ops.expand_dims(deviation, 1) + 1e-3)
    return _mean(scaled[..., :1] * scaled[..., 1:], weights)[:, 0]


def _modulations(bands: Any, real: Any, frames_per_sec: float) -> Any:
    """Log power of a few groups of bands' levels in ranges of modulation frequency."""
    from keras import ops

    groups = np.kron(np.eye(_N_MODULATED), np.ones((_N_COARSE // _N_MODULATED, 1))) / (_N_COARSE // _N_MODULATED)
    levels = ops.matmul(bands, _constant(groups))
    levels = (levels - ops.expand_dims(_mean(levels, real), 1)) * ops.expand_dims(real, -1)
    frequencies_hz = np.arange(2, 128) * frames_per_sec / 256.0
    frames = ops.cumsum(ops.ones_like(real), 1) - 1.0
    phases = ops.expand_dims(frames, -1) * _constant(2.0 * np.pi * frequencies_hz / frames_per_sec)
    turned = ops.transpose(levels, (0, 2, 1))
    power = ops.square(ops.matmul(turned, ops.cos(phases))) + ops.square(ops.matmul(turned, ops.sin(phases)))
    ranges = np.zeros((len(frequencies_hz), len(_MODULATION_EDGES_HZ) - 1))
    for column, (low_hz, high_hz) in zip(ranges.T, pairwise(_MODULATION_EDGES_HZ), strict=True):
        inside = (frequencies_hz >= low_hz) & (frequencies_hz < high_hz)
        column[inside] = 1.0 / inside.sum()
    power = power / ops.sum(real, 1)[:, None, None]
    return ops.reshape(ops.log(ops.matmul(power, _constant(ranges)) + 1e-2), (-1, _N_MODULATED * ranges.shape[1]))


# --- sums over time: curves (batch, frames, curves), weights (batch, frames)


def _mean(curves: Any, weights: Any) -> Any:
    from keras import ops

    return ops.sum(curves * ops.expand_dims(weights, -1), 1) / (ops.sum(weights, 1, keepdims=True) + _SMALL)


def _moments(curves: Any, weights: Any) -> tuple[Any, Any]:
    from keras import ops

    mean = _mean(curves, weights)
    return mean, ops.sqrt(_mean(ops.square(curves - ops.expand_dims(mean, 1)), weights) + _SMALL)


def _steps(curves: Any, weights: Any, lag: int) -> tuple[Any, Any]:
    """Differences over ``lag`` frames, and what each weighs."""
    return curves[:, lag:] - curves[:, :-lag], weights[:, lag:] * weights[:, :-lag]


def _change(curves: Any, weights: Any, lag: int) -> Any:
    """Root mean square of the differences over ``lag`` frames."""
    from keras import ops

    steps, step_weights = _steps(curves, weights, lag)
    return ops.sqrt(_mean(ops.square(steps), step_weights) + _SMALL)


def _quantiles(curves: Any, chosen: Any, shares: Sequence[float]) -> list[Any]:
    """For each share the value that this share of the chosen frames does not exceed.

    ``chosen`` is 1 or 0, ``(batch, frames)``.
    """
    from keras import ops

    ordered = ops.sort(ops.where(ops.expand_dims(chosen, -1) > 0, curves, 1e9), 1)
    n_chosen = ops.sum(chosen, 1)
    places = [ops.maximum(ops.cast(ops.ceil(n_chosen * share - 1e-3), "int32") - 1, 0) for share in shares]
    found = ops.take_along_axis(ordered, ops.expand_dims(ops.stack(places, 1), -1), 1)
    return [found[:, number] for number in range(len(shares))]


def _column(curve: Any) -> Any:
    from keras import ops

    return ops.expand_dims(curve, -1)


def _decibels(power: Any, floor: float) -> Any:
    from keras import ops

    return ops.log(power + floor) / _NEPERS_PER_DB


def _cosines(n_bands: int, n_cepstra: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II, ``(n_bands, n_cepstra)``."""
    orders = np.arange(n_cepstra)
    cosines = np.cos(np.pi * np.outer(np.arange(n_bands) + 0.5, orders) / n_bands)
    return _constant(cosines * np.sqrt(np.where(orders == 0, 1.0, 2.0) / n_bands))


def _constant(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
