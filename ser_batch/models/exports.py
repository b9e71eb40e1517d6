"""Conversion of a network to LiteRT. It imports TensorFlow."""

from __future__ import annotations

from pathlib import Path

import keras
import tensorflow as tf

from ser_batch.runtime.process import native_code_silenced, temporary_files_removed


def convert(network: keras.Model, path: Path) -> None:
    """Write a network for `RuntimeNetwork`.

    Args:
        network: from log-mels, and speakers' scales if it normalises by speaker, to probabilities.
        path: the file to write, ending in ``.tflite``.
    """
    outputs = {"probabilities": network.outputs[0], "features": network.get_layer("emotion").input}
    if len(network.inputs) > 1:
        outputs["functionals"] = network.get_layer("functionals").output
    whole = keras.Model(network.inputs, outputs)
    # With a batch size of one, recurrent layers need only operations that LiteRT has.
    signature = [tf.TensorSpec((1, *one.shape[1:]), tf.float32, name=one.name) for one in network.inputs]
    graph = tf.function(lambda *inputs: whole(list(inputs), training=False), signature, autograph=False)
    weights = tf.Module()  # Keras' own model would be traced again, several times
    weights.of_network = [weight.value for weight in network.weights]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # The converter warns about unknown options, and leaves temporary files in processes that exit without cleanup.
    with native_code_silenced(), temporary_files_removed():
        content = converter.convert()
    path.write_bytes(content)
