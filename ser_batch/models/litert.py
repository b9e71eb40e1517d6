"""An encoder for prediction: LiteRT on one thread, one log-mel at a time.

It is converted from the Keras network when a bundle is saved, and runs without TensorFlow, whose import takes longer
than a prediction for a small folder. With one log-mel at a time, none is padded to the length of another.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.runtime.process import native_code_silenced

# XNNPACK, LiteRT's CPU kernels, does not accept inputs of three frames or fewer. Padding does not change the outputs.
MIN_FRAMES = 8


class RuntimeEncoder:
    """The LiteRT interpreter of a file from `ser_batch.models.exports.convert`.

    Args:
        content: the file's bytes.

    Raises:
        ValueError: the content is damaged.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._run: Any = Interpreter(model_content=content, num_threads=1).get_signature_runner()
        self._has_run = False

    def __call__(self, log_mel: Float32s) -> Float32s:
        """The embedding, float32 ``(features,)``, of a log-mel, float32 ``(n_mels, n_frames)``."""
        missing = max(MIN_FRAMES - log_mel.shape[1], 0)
        if missing:
            log_mel = np.pad(log_mel, [(0, 0), (0, missing)], constant_values=PADDING_DB)
        with nullcontext() if self._has_run else native_code_silenced():  # the first run prints the kernels in use
            embedding: Float32s = self._run(log_mel=log_mel[None])["embedding"][0]
        self._has_run = True
        return embedding
