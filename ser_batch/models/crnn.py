"""The networks, in pure Keras: no TensorFlow operation, so that they run on any Keras backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.audio.waveforms import Float32s
from ser_batch.errors import TrainingError

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class CrnnOptions:
    """What recipes vary in the network.

    Attributes:
        dropout: before the softmax, and in `seed_crnn` before the LSTM; 0 for none.
        channel_dropout: share of channels dropped after each convolution of `small_crnn`.
        norm_momentum: of batch normalisation's running averages. Keras' .99 forgets with a time constant of 100
            steps: with a few hundred steps in all, the averages lag far behind the weights.
    """

    dropout: float
    channel_dropout: float
    norm_momentum: float


@dataclass(frozen=True)
class InputScale:
    """What log-mels are standardised with: per mel band, float32 ``(n_mels,)`` each."""

    mean: Float32s
    variance: Float32s


def seed_crnn(
    shape: tuple[int, int | None], n_labels: int, options: CrnnOptions, scale: InputScale | None = None
) -> keras.Model:
    """Four convolution blocks, then a bidirectional LSTM over time.

    Each block: Conv2D 3x3 "same" with ReLU (64, 64, 128, 128 filters), batch normalisation, 2x2 max
    pooling. The sequence runs over time; its features are frequency times channels. With 128 mel bands,
    259 frames and 7 labels the network has 1,443,015 parameters.

    Args:
        shape: ``(n_mels, n_frames)`` of the input.
        n_labels: width of the softmax.
        options: what a recipe chooses.
        scale: standardise the input with these statistics, inside the model; None: take it as it is.

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)`` to probabilities ``(batch, n_labels)``.

    Raises:
        TrainingError: the number of frames is not fixed.
    """
    from keras import Input, Model, layers

    if shape[1] is None:
        raise TrainingError(
            "the network seed_crnn takes log-mels of one length, and this front end keeps each recording's own; "
            "give a recipe with small_crnn, or build the records with --front-end seed"
        )
    inputs = Input(shape, name="log_mel")
    x = inputs
    if scale is not None:
        x = layers.Normalization(
            axis=1, mean=scale.mean.tolist(), variance=scale.variance.tolist(), dtype="float32", name="standardise"
        )(x)
    x = layers.Reshape((*shape, 1), name="add_channel")(x)
    for number, filters in enumerate((64, 64, 128, 128), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv_{number}")(x)
        x = layers.BatchNormalization(momentum=options.norm_momentum, name=f"norm_{number}")(x)
        x = layers.MaxPooling2D(2, name=f"pool_{number}")(x)
    n_bands, n_steps, n_channels = x.shape[1:]
    x = layers.Permute((2, 1, 3), name="time_first")(x)
    x = layers.Reshape((n_steps, n_bands * n_channels), name="sequence")(x)
    if options.dropout:
        x = layers.Dropout(options.dropout, name="drop_sequence")(x)
    x = layers.Bidirectional(layers.LSTM(128), name="lstm")(x)
    if options.dropout:
        x = layers.Dropout(options.dropout, name="drop_summary")(x)
    outputs = layers.Dense(n_labels, activation="softmax", dtype="float32", name="emotion")(x)
    return Model(inputs, outputs, name="crnn")


def small_crnn(
    shape: tuple[int, int | None],
    n_labels: int,
    options: CrnnOptions,
    scale: InputScale | None = None,
    centre_files: bool = False,
) -> keras.Model:
    """Four convolution blocks, a bidirectional GRU over time, then the mean and deviation over time.

    Log-mels of any length; frames of `PADDING_DB` at the end change nothing: every layer that looks across
    time sees zeros after the end, as it would without padding. With 64 mel bands and 7 labels the network
    has 93,239 parameters.

    Args:
        shape: ``(n_mels, n_frames)`` of the input; None for any number of frames.
        n_labels: width of the softmax.
        options: what a recipe chooses.
        scale: standardise the input with these statistics; None: take it as it is.
        centre_files: take each recording's own mean from every mel band.

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)`` to probabilities ``(batch, n_labels)``.
    """
    from keras import Input, Model, layers, ops

    inputs = Input(shape, name="log_mel")
    real = ops.cast(ops.greater(inputs[:, 0], PADDING_DB / 2), "float32")  # (batch, frames)
    x = inputs
    if centre_files:
        x = x - ops.expand_dims(_mean_over_time(layers.Permute((2, 1))(x), real), -1)
    if scale is not None:
        mean = ops.zeros_like(scale.mean) if centre_files else scale.mean
        x = layers.Normalization(
            axis=1, mean=list(map(float, mean)), variance=scale.variance.tolist(), dtype="float32", name="standardise"
        )(x)
    x = _silenced(ops.expand_dims(layers.Permute((2, 1), name="time_first")(x), -1), real)
    for number, (filters, kernel, pool) in enumerate(
        ((16, 5, (1, 1)), (24, 3, (2, 2)), (48, 3, (2, 2)), (64, 3, (1, 2))), 1
    ):
        stride = 2 if number == 1 else 1
        # Padded by hand: "same" would pad even and odd lengths differently when it strides.
        x = layers.ZeroPadding2D(kernel // 2)(x)
        x = layers.Conv2D(filters, kernel, strides=stride, use_bias=False, name=f"conv_{number}")(x)
        real = real[:, ::stride]
        x = layers.BatchNormalization(momentum=options.norm_momentum, name=f"norm_{number}")(x)
        x = _silenced(layers.ReLU()(x), real)
        x = layers.MaxPooling2D(pool, padding="same", name=f"pool_{number}")(x)
        real = real[:, :: pool[0]]
        x = layers.SpatialDropout2D(options.channel_dropout, name=f"drop_{number}")(x)
    x = layers.Reshape((-1, x.shape[2] * x.shape[3]), name="sequence")(x)
    x = layers.Dense(64, name="project")(x)
    x = layers.ReLU()(layers.LayerNormalization(name="project_norm")(x))
    x = layers.Bidirectional(layers.GRU(48, return_sequences=True), name="gru")(x, mask=ops.cast(real, "bool"))
    mean = _mean_over_time(x, real)
    variance = _mean_over_time(ops.square(x - ops.expand_dims(mean, 1)), real)
    x = layers.Concatenate(name="statistics")([mean, ops.sqrt(variance + 1e-5)])
    x = layers.Dropout(options.dropout, name="drop_summary")(x)
    outputs = layers.Dense(n_labels, activation="softmax", dtype="float32", name="emotion")(x)
    return Model(inputs, outputs, name="small_crnn")


def features_of(network: keras.Model) -> keras.Model:
    """The same network up to what its softmax layer sees: a model to features ``(batch, features)``."""
    from keras import Model

    return Model(network.inputs, network.get_layer("emotion").input)


def _silenced(maps: Any, real: Any) -> Any:
    """Feature maps ``(batch, frames, bands, channels)`` with zeros where there is padding."""
    from keras import ops

    return maps * ops.cast(ops.expand_dims(ops.expand_dims(real, -1), -1), maps.dtype)


def _mean_over_time(values: Any, real: Any) -> Any:
    """The mean ``(batch, features)`` of ``(batch, frames, features)`` over the frames that are real."""
    from keras import ops

    weights = ops.cast(ops.expand_dims(real, -1), values.dtype)
    return ops.sum(values * weights, axis=1) / ops.maximum(ops.sum(weights, axis=1), 1.0)
