"""Batches of log-mels as training makes them."""

from collections.abc import Sequence

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB


def stack(log_mels: Sequence[Float32s]) -> Float32s:
    """Log-mels of one or several lengths as one batch, padded at the end with `PADDING_DB`.

    Args:
        log_mels: at least one, each float32 ``(n_mels, frames)``.

    Returns:
        float32 ``(batch, n_mels, frames)``, as many frames as the longest has.
    """
    n_frames = max(log_mel.shape[1] for log_mel in log_mels)
    batch = np.full((len(log_mels), log_mels[0].shape[0], n_frames), PADDING_DB, dtype=np.float32)
    for row, log_mel in zip(batch, log_mels, strict=True):
        row[:, : log_mel.shape[1]] = log_mel
    return batch
