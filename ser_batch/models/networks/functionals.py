"""Functionals: a few hundred statistics of a whole recording, computed from its log-mel spectrogram.

First, descriptors of every frame are computed (pitch, level, the shape of the spectrum: most of those of eGeMAPS,
Eyben et al., "The Geneva Minimalistic Acoustic Parameter Set (GeMAPS) for Voice Research and Affective Computing",
2016). Then each descriptor is summarised by its mean, deviation, percentiles and rate of change, over the loud frames
and over the voiced frames. Correlations of the cepstra and modulation spectra of the bands are added. All operations
are pure Keras and run on any backend; frames of padding have the weight 0.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import Input, Model, layers, ops

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.errors import TrainingError
from ser_batch.models.heads import standardise
from ser_batch.models.networks.descriptors import (
    _N_COARSE,
    _NEPERS_PER_DB,
    Spectrum,
    _cosines,
    _pitch,
    _saliences,
    at_reference_level,
)
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.networks.statistics import (
    _change,
    _column,
    _correlation,
    _correlations,
    _curve_statistics,
    _mean,
    _modulations,
    _moments,
    _rates,
    _steps,
)
from ser_batch.models.normalisation import Scale

# Frames within this of the power-weighted mean level count as speech.
_LOUD_DB = 25.0

_N_CEPSTRA = 24
_N_CORRELATED = 16


def functionals(log_mel: Any, front_end: FrontEnd) -> dict[str, Any]:
    """The functionals of a batch, in groups.

    Args:
        log_mel: a Keras tensor, float32 ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`.
        front_end: of the log-mels: a multiple of 64 bands, narrow enough to resolve harmonics.

    Returns:
        Keras tensors, float32 ``(batch, functionals of the group)``.

    Raises:
        TrainingError: the front end's bands do not fit.
    """
    if front_end.n_mels % _N_COARSE:
        raise TrainingError(
            f"functionals need a multiple of {_N_COARSE} mel bands, and this front end has {front_end.n_mels}; "
            "build the records with --front-end speech"
        )
    fine = at_reference_level(log_mel)
    spectrum = Spectrum(fine, front_end)
    level = spectrum.level
    loud = ops.cast(ops.greater(level, _power_weighted_mean(level) - _LOUD_DB), "float32")
    real = _span(loud)
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
        "correlations": _correlations(correlated, loud),
        "voiced correlations": _correlations(correlated, voiced),
        "change correlations": _correlations(*_steps(correlated, real, 4)),
        "modulations": _modulations(spectrum.coarse, real, frames_per_sec),
        "saliences": _mean(saliences, voiced),
    }


def _power_weighted_mean(level: Any) -> Any:
    """The mean level of the frames, weighted by power, ``(batch, 1)``."""
    power = ops.exp((level - ops.max(level, axis=1, keepdims=True)) * _NEPERS_PER_DB)
    return ops.sum(power * level, axis=1, keepdims=True) / ops.sum(power, axis=1, keepdims=True)


def _span(loud: Any) -> Any:
    """1 from the first to the last loud frame, 0 before and after, ``(batch, frames)``."""
    until = ops.cumsum(loud, axis=1)
    since = ops.sum(loud, axis=1, keepdims=True) - until + loud
    return ops.cast(ops.minimum(until, since) > 0.5, "float32")


def functional_extractor(front_end: FrontEnd, centre_files: bool = False) -> keras.Model:
    """A model without weights from log-mels to functionals.

    Log-mels may have any length; frames of `PADDING_DB` at the end do not change the functionals.

    Args:
        front_end: of the input log-mels.
        centre_files: first subtract each recording's own mean from every mel band.

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)`` to ``(batch, features)``.
    """
    log_mel = Input(front_end.shape, name="log_mel")
    return Model(log_mel, _features(log_mel, front_end, centre_files), name="functionals")


def functional_head(
    n_labels: int,
    options: NetworkOptions,
    scale: Scale,
    initial: tuple[Any, Any] | None = None,
) -> keras.Model:
    """A model from functionals to labels: standardisation and one softmax layer (multinomial logistic regression).

    Args:
        n_labels: width of the softmax.
        options: the recipe's network options. With speaker normalisation there is a second input, the factor and
            offset of each feature for the example's speaker, ``(batch, 2, features)``.
        scale: statistics of the training examples' functionals.
        initial: kernel ``(features, n_labels)`` and bias ``(n_labels,)`` of the softmax layer at the start; the penalty
            is on the distance to this kernel (Li, Grandvalet and Davoine, "Explicit Inductive Bias for Transfer
            Learning with Convolutional Networks", ICML 2018). None: zeros.

    Returns:
        A model from ``(batch, features)`` to probabilities ``(batch, n_labels)``.
    """
    features = Input((len(scale.mean),), name="features")
    towards = None if initial is None else initial[0]
    inputs, outputs = _classified(features, n_labels, options, scale, towards)
    head = Model([features, *inputs], outputs, name="head")
    if initial is not None:
        head.get_layer("emotion").set_weights(list(initial))
    return head


def functional_network(
    front_end: FrontEnd, n_labels: int, options: NetworkOptions, scale: Scale, crnn: keras.Model | None = None
) -> keras.Model:
    """`functional_extractor` and `functional_head` as one model: log-mels to probabilities ``(batch, n_labels)``.

    Args:
        front_end: of the input log-mels.
        n_labels: width of the softmax.
        options: the recipe's network options.
        scale: of the features of the training examples.
        crnn: from log-mels to more features, which follow the functionals; None: there are only the functionals.
    """
    log_mel = Input(front_end.shape, name="log_mel")
    features = _features(log_mel, front_end, options.normalise == "file")
    if crnn is not None:
        features = layers.Concatenate(name="embedding")([features, crnn(log_mel)])
    inputs, outputs = _classified(features, n_labels, options, scale)
    return Model([log_mel, *inputs], outputs, name="functional_network")


def _features(log_mel: Any, front_end: FrontEnd, centre_files: bool) -> Any:
    """All functionals, ``(batch, features)``."""
    groups = functionals(_centred(log_mel) if centre_files else log_mel, front_end)
    return layers.Concatenate(name="functionals")(list(groups.values()))


class _L2Towards(keras.regularizers.Regularizer):  # type: ignore[misc]  # Keras has no types
    """Penalty on the squared distance of weights to given values."""

    def __init__(self, l2: float, towards: Any) -> None:
        self._l2, self._towards = l2, towards

    def __call__(self, weights: Any) -> Any:
        return self._l2 * ops.sum(ops.square(weights - self._towards))


def _classified(
    features: Any, n_labels: int, options: NetworkOptions, scale: Scale, towards: Any = None
) -> tuple[list[Any], Any]:
    """The additional inputs, and the output."""
    inputs = []
    if options.normalise == "speaker":
        speaker = Input((2, features.shape[-1]), name="speaker_scale")
        inputs.append(speaker)
        features = features * speaker[:, 0] + speaker[:, 1]
    x = standardise(features, scale, ops)
    x = layers.Dropout(options.dropout, name="drop")(x)
    emotion = layers.Dense(
        n_labels,
        activation="softmax",
        kernel_initializer="zeros",
        kernel_regularizer=keras.regularizers.L2(options.l2) if towards is None else _L2Towards(options.l2, towards),
        dtype="float32",
        name="emotion",
    )
    return inputs, emotion(x)


def _centred(log_mel: Any) -> Any:
    real = ops.cast(ops.greater(log_mel[:, :1], PADDING_DB / 2), "float32")
    mean = ops.sum(log_mel * real, -1, keepdims=True) / ops.maximum(ops.sum(real, -1, keepdims=True), 1.0)
    return ops.where(real > 0, log_mel - mean, log_mel)
