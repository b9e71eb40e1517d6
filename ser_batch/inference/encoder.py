"""The encoder of a bundle in a worker process."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import BundleError
from ser_batch.models.bundles import open_bundle

# From a log-mel ``(n_mels, n_frames)`` to an embedding ``(features,)``.
Encoder = Callable[[Float32s], Float32s]


@lru_cache(maxsize=1)
def cached_encoder(path: Path, fingerprint: str) -> Encoder:
    """The encoder of a bundle folder, cached: one for each process.

    Raises:
        BundleError: the bundle is damaged, or was replaced since it had this fingerprint.
    """
    bundle = open_bundle(path)
    if bundle.fingerprint != fingerprint:
        raise BundleError(f"{path}: was replaced during the run; run the same command again")
    return bundle.load_encoder()
