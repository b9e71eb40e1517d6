"""A small convolutional recurrent network (CRNN) that takes recordings of any length, in pure Keras."""

from __future__ import annotations

from typing import Any

import keras
from keras import Input, Model, layers, ops

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.models.networks.descriptors import Spectrum, at_reference_level
from ser_batch.models.networks.options import NetworkOptions

_FILTERS = (24, 32, 48, 64)
_SEQUENCE = 64
_UNITS = 48
_SPATIAL_DROPOUT = 0.1


def crnn(front_end: FrontEnd, n_labels: int, options: NetworkOptions) -> keras.Model:
    """`crnn_encoder` and a softmax layer: from log-mels to probabilities ``(batch, n_labels)``.

    Args:
        front_end: of the log-mels.
        n_labels: width of the softmax.
        options: the network options of the recipe.
    """
    log_mel = Input(front_end.shape, name="log_mel")
    x = crnn_encoder(front_end, options.norm_momentum)(log_mel)
    x = layers.Dropout(options.dropout, name="drop")(x)
    return Model(log_mel, layers.Dense(n_labels, activation="softmax", dtype="float32", name="emotion")(x))


def crnn_encoder(front_end: FrontEnd, norm_momentum: float) -> keras.Model:
    """Four convolution blocks, a bidirectional GRU over time, and attentive statistics pooling.

    The input is reduced to 64 mel bands, relative to the recording's own level, and standardised by batch
    normalisation. Blocks: Conv2D with batch normalisation, ReLU, max pooling and spatial dropout; together they reduce
    time by 8 and frequency by 16. The output is the mean and the deviation over time, weighted by attention (Okabe,
    Koshinaka and Shinoda, "Attentive Statistics Pooling for Deep Speaker Embedding", Interspeech 2018).

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`, to ``(batch, 192)``.
    """
    log_mel = Input(front_end.shape, name="log_mel")
    real = ops.cast(ops.greater(log_mel[:, 0], PADDING_DB / 2), "float32")[..., None]
    levels = Spectrum(at_reference_level(log_mel), front_end).coarse
    x = layers.BatchNormalization(momentum=norm_momentum, center=False, scale=False, name="standardise")(levels)
    x = layers.Reshape((-1, levels.shape[-1], 1), name="add_channel")(x * real)
    x = _block(x, 1, 5, norm_momentum, strides=2)
    x = _block(x, 2, 3, norm_momentum, pool=(2, 2))
    x = _block(x, 3, 3, norm_momentum, pool=(2, 2))
    x = _block(x, 4, 3, norm_momentum, pool=(1, 2))
    for number in range(3):  # time steps, as in the blocks
        real = layers.MaxPooling1D(2, padding="same", name=f"pool_mask_{number}")(real)
    x = layers.Reshape((-1, x.shape[2] * x.shape[3]), name="sequence")(x)
    x = layers.Dense(_SEQUENCE, use_bias=False, name="reduce")(x)
    x = layers.ReLU(name="relu_reduced")(layers.LayerNormalization(name="norm_reduced")(x))
    x = layers.Bidirectional(layers.GRU(_UNITS, return_sequences=True), name="gru")(x * real)
    scores = layers.Dense(1, dtype="float32", name="attention")(x)
    weights = ops.softmax(scores - 1e9 * (1.0 - real), axis=1)
    mean = ops.sum(weights * x, 1)
    variance = ops.sum(weights * ops.square(x - mean[:, None]), 1)
    return Model(log_mel, ops.concatenate([mean, ops.sqrt(variance + 1e-4)], -1), name="crnn")


def _block(
    x: Any, number: int, size: int, momentum: float, strides: int = 1, pool: tuple[int, int] | None = None
) -> Any:
    x = layers.Conv2D(
        _FILTERS[number - 1], size, strides=strides, padding="same", use_bias=False, name=f"conv_{number}"
    )(x)
    x = layers.BatchNormalization(momentum=momentum, name=f"norm_{number}")(x)
    x = layers.ReLU(name=f"relu_{number}")(x)
    if pool:
        x = layers.MaxPooling2D(pool, padding="same", name=f"pool_{number}")(x)
    return layers.SpatialDropout2D(_SPATIAL_DROPOUT, name=f"drop_{number}")(x)
