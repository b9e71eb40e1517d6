"""Conversion of a network to LiteRT. It imports TensorFlow."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from ser_batch.runtime.process import native_code_silenced, temporary_files_removed


def convert(encoder: keras.Model, path: Path) -> None:
    """Write an encoder for `ser_batch.models.litert.RuntimeEncoder`.

    Args:
        encoder: from log-mels to embeddings.
        path: the file to write, ending in ``.tflite``.
    """
    # With a batch size of one, recurrent layers need only operations that LiteRT has.
    signature = tf.TensorSpec((1, *encoder.inputs[0].shape[1:]), tf.float32, name="log_mel")
    graph = tf.function(lambda one: {"embedding": encoder(one, training=False)}, [signature], autograph=False)
    weights = tf.Module()  # Keras' own model would be traced again, several times
    weights.of_network = [weight.value for weight in encoder.weights]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # The converter warns about unknown options, and leaves temporary files in processes that exit without cleanup.
    with native_code_silenced(), temporary_files_removed():
        content = converter.convert()
    path.write_bytes(content)
