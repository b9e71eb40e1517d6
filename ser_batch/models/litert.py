"""A network for prediction: LiteRT on one thread, one log-mel at a time.

It is converted from the Keras network when a bundle is saved, and runs without TensorFlow, whose import takes longer
than a prediction for a small folder. With one log-mel at a time, none is padded to the length of another.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.runtime.process import native_code_silenced

# XNNPACK, LiteRT's CPU kernels, does not accept inputs of three frames or fewer. Padding does not change the outputs.
_MIN_FRAMES = 8


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """The outputs of a network for one log-mel.

    Attributes:
        probabilities: float32 ``(labels,)``.
        features: float32 ``(features,)``: the input of its softmax layer.
        functionals: float32 ``(functionals,)`` before speaker normalisation; empty unless the network normalises by
            speaker.
    """

    probabilities: Float32s
    features: Float32s
    functionals: Float32s


class RuntimeNetwork:
    """The LiteRT interpreter of a file from `ser_batch.models.exports.convert`.

    Args:
        content: the file's bytes.
        default_scale: float32 ``(2, functionals)``, of recordings without a speaker; None: the network does not
            normalise by speaker.

    Raises:
        ValueError: the content is damaged.
    """

    def __init__(self, content: bytes, default_scale: Float32s | None) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._run: Any = Interpreter(model_content=content, num_threads=1).get_signature_runner()
        self._has_run = False
        self._default_scale = default_scale

    def __call__(self, log_mel: Float32s, speaker_scale: Float32s | None = None) -> NetworkOutput:
        """Run the network.

        Args:
            log_mel: float32 ``(n_mels, n_frames)``.
            speaker_scale: float32 ``(2, functionals)``; None: the default scale.
        """
        missing = max(_MIN_FRAMES - log_mel.shape[1], 0)
        if missing:
            log_mel = np.pad(log_mel, [(0, 0), (0, missing)], constant_values=PADDING_DB)
        inputs = {"log_mel": log_mel[None]}
        if self._default_scale is not None:
            inputs["speaker_scale"] = (self._default_scale if speaker_scale is None else speaker_scale)[None]
        with nullcontext() if self._has_run else native_code_silenced():  # the first run prints the kernels in use
            outputs = self._run(**inputs)
        self._has_run = True
        functionals = outputs["functionals"][0] if "functionals" in outputs else np.empty(0, np.float32)
        return NetworkOutput(outputs["probabilities"][0], outputs["features"][0], functionals)
