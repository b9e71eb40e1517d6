"""Common interface of the decoders: blocks of samples, and whether some are missing."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import AudioError

Float32s = NDArray[np.float32]

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64

# Smaller differences from a claimed length are rounding: the padding of codecs, times in whole milliseconds.
DURATION_TOLERANCE_SECS = 0.1


@dataclass
class Decoder:
    """An open recording.

    Attributes:
        rate_hz: the file's own sampling rate.
        channels: number of channels.
        blocks: consecutive blocks of the audio, float32 ``(samples, channels)``; reading them raises
            `AudioError` if nothing can be decoded.
        is_cut: whether audio is missing so far: it could not be decoded, or the file ended before the length in its
            header. Final after all blocks are read.
    """

    rate_hz: int
    channels: int
    blocks: Iterator[NDArray[np.float32]] = field(default_factory=lambda: iter(()))
    is_cut: bool = False


def check_format(rate_hz: int, channels: int) -> None:
    """Check a header's values for plausibility.

    Raises:
        AudioError: the rate or the number of channels is out of range.
    """
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError("decode", f"claims {rate_hz} Hz; readable are {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("decode", f"claims {channels} channels; readable are 1 to {MAX_CHANNELS}")


def one_line(text: str) -> str:
    """The text without line breaks and repeated spaces."""
    return " ".join(text.split())
