"""The network of the seed recipe, in pure Keras: without TensorFlow operations, so it runs on any Keras backend."""

from __future__ import annotations

import keras
from keras import Input, Model, layers

from ser_batch.errors import TrainingError
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.normalisation import Scale


def seed_crnn(
    shape: tuple[int, int | None], n_labels: int, options: NetworkOptions, scale: Scale | None = None
) -> keras.Model:
    """Four convolution blocks, then a bidirectional LSTM over time.

    Each block: Conv2D 3x3 "same" with ReLU (64, 64, 128, 128 filters), batch normalisation, 2x2 max
    pooling. The sequence runs over time; its features are frequency times channels. With 128 mel bands,
    259 frames and 7 labels the network has 1,443,015 parameters.

    Args:
        shape: ``(n_mels, n_frames)`` of the input.
        n_labels: width of the softmax.
        options: the recipe's network options.
        scale: standardise every mel band with these statistics, inside the model; None: no standardisation.

    Returns:
        A model from float32 ``(batch, n_mels, n_frames)`` to probabilities ``(batch, n_labels)``.

    Raises:
        TrainingError: the number of frames is not fixed.
    """
    if shape[1] is None:
        raise TrainingError(
            "the network seed_crnn takes log-mels of one length, and this front end keeps each recording's own; "
            "choose another --recipe, or build the records with --front-end seed"
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
