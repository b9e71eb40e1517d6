"""A network as predictions run it: LiteRT on one thread, one log-mel at a time.

It is written from the Keras network when a bundle is saved, and run without TensorFlow, whose import takes longer than
a small folder. A log-mel alone is padded to no other's length.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.native import native_code_silenced, temporary_files_removed

if TYPE_CHECKING:
    import keras

# With three frames or fewer XNNPACK, LiteRT's kernels for CPUs, refuses the network's shapes; padding changes nothing.
_MIN_FRAMES = 8


@dataclass(frozen=True, slots=True)
class Said:
    """What a network says of one log-mel.

    Attributes:
        probabilities: float32 ``(labels,)``.
        features: float32 ``(features,)``: what its softmax layer sees.
        functionals: float32 ``(functionals,)`` before they are brought to the reference; empty unless the network
            normalises by speaker.
    """

    probabilities: Float32s
    features: Float32s
    functionals: Float32s


def convert(network: keras.Model, path: Path) -> None:
    """Write a network for `RuntimeNetwork`.

    Args:
        network: from log-mels, and speakers' scales if it normalises by speaker, to probabilities.
        path: what to write, ending in ``.tflite``.
    """
    import keras
    import tensorflow as tf

    outputs = {"probabilities": network.outputs[0], "features": network.get_layer("emotion").input}
    if len(network.inputs) > 1:
        outputs["functionals"] = network.get_layer("functionals").output
    whole = keras.Model(network.inputs, outputs)
    # With one example, recurrent layers need none of the operations that only TensorFlow has.
    signature = [tf.TensorSpec((1, *one.shape[1:]), tf.float32, name=one.name) for one in network.inputs]
    graph = tf.function(lambda *inputs: whole(list(inputs), training=False), signature, autograph=False)
    weights = tf.Module()  # Keras' own model would be traced anew, several times
    weights.of_network = [weight.value for weight in network.weights]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph.get_concrete_function()], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # It warns of options that it does not know, and leaves files behind in processes that end without ceremony.
    with native_code_silenced(), temporary_files_removed():
        content = converter.convert()
    path.write_bytes(content)


class RuntimeNetwork:
    """What `convert` wrote, at work.

    Args:
        content: of the file.
        unchanged_scale: float32 ``(2, functionals)``, of somebody unknown; None: it does not normalise by speaker.

    Raises:
        ValueError: the content is damaged.
    """

    def __init__(self, content: bytes, unchanged_scale: Float32s | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._run: Any = Interpreter(model_content=content, num_threads=1).get_signature_runner()
        self._has_run = False
        self._unchanged_scale = unchanged_scale

    def __call__(self, log_mel: Float32s, speaker_scale: Float32s | None = None) -> Said:
        """What the network says.

        Args:
            log_mel: float32 ``(n_mels, n_frames)``.
            speaker_scale: float32 ``(2, functionals)``; None: somebody unknown.
        """
        missing = max(_MIN_FRAMES - log_mel.shape[1], 0)
        if missing:
            log_mel = np.pad(log_mel, [(0, 0), (0, missing)], constant_values=PADDING_DB)
        inputs = {"log_mel": log_mel[None]}
        if self._unchanged_scale is not None:
            inputs["speaker_scale"] = (self._unchanged_scale if speaker_scale is None else speaker_scale)[None]
        with nullcontext() if self._has_run else native_code_silenced():  # at first it says which kernels it uses
            said = self._run(**inputs)
        self._has_run = True
        functionals = said["functionals"][0] if "functionals" in said else np.empty(0, np.float32)
        return Said(said["probabilities"][0], said["features"][0], functionals)
