"""Checks of a waveform: errors for unusable audio, and warnings."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import AudioError

MAX_SAMPLE = 2.0**40  # full scale is 1; larger samples overflow float32 in the power spectrum
QUIET_PEAK = 0.01  # 40 dB under full scale
SHORT_SECS = 0.5
CLIPPED_LEVEL = 0.999
CLIPPED_RUN = 4  # consecutive samples at full scale; a peak-normalised recording has one or two
DIFFERENT_CORRELATION = 0.5
SILENT_CHANNEL_POWER = 1e-4  # relative to the loudest channel: 40 dB under it


class SignalCheck:
    """Check of all samples of a recording: raises `AudioError` for unusable audio, and collects warnings."""

    def __init__(self, rate_hz: int, start_secs: float, is_mixed: bool = False) -> None:
        self.n_samples = 0
        self._is_mixed = is_mixed
        self._rate_hz = rate_hz
        self._start_secs = start_secs
        self._peak = 0.0
        self._clipped = False

    def checked(self, blocks: Iterator[Float32s]) -> Iterator[Float32s]:
        """Check the blocks, and yield those that are not empty."""
        for block in blocks:
            if len(block):
                self._check(block)
                yield block

    def _check(self, block: Float32s) -> None:
        peak = max(float(block.max()), -float(block.min()))
        if np.isfinite(peak) and peak > MAX_SAMPLE:
            raise AudioError("check", f"has a sample of {peak:g}, where full scale is 1; it may be damaged")
        if not np.isfinite(peak):
            at_secs = self._start_secs + (self.n_samples + int(np.argmin(np.isfinite(block)))) / self._rate_hz
            raise AudioError("check", f"has a sample that is not finite, at {at_secs:.3f} s")
        self._peak = max(self._peak, peak)
        self.n_samples += len(block)
        if peak >= CLIPPED_LEVEL and not self._clipped:
            full = np.abs(block) >= CLIPPED_LEVEL
            runs = full[: len(full) - CLIPPED_RUN + 1].copy()
            for shift in range(1, CLIPPED_RUN):
                runs &= full[shift : shift + len(runs)]
            self._clipped = bool(runs.any())

    def finish(self) -> float:
        """The duration in seconds; raises `AudioError` if there are no samples or all are zero."""
        if not self.n_samples:
            where = f" from {self._start_secs:g} s on" if self._start_secs else ""
            raise AudioError("check", f"has no samples{where}")
        if not self._peak and self._is_mixed:
            raise AudioError(
                "check", "is digital silence: the mean of its channels is zero throughout; try --channel 0"
            )
        if not self._peak:
            raise AudioError("check", "is digital silence: every sample is zero")
        return self.n_samples / self._rate_hz

    def warnings(self) -> list[str]:
        """Warning codes for the checked samples."""
        codes = {
            "clipped": self._clipped,
            "quiet": self._peak < QUIET_PEAK,
            "short": self.n_samples < SHORT_SECS * self._rate_hz,
        }
        return [code for code, applies in codes.items() if applies]


class ChannelCheck:
    """Check whether channels are too different for their mean, for example two speakers on two channels.

    Pearson's correlation of every pair of channels, over all samples; silent channels are ignored.
    """

    def __init__(self, n_channels: int) -> None:
        self._n_samples = 0
        self._sums = np.zeros(n_channels)
        self._products = np.zeros((n_channels, n_channels))

    def checked(self, blocks: Iterator[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
        """Add the blocks ``(samples, channels)`` to the statistics, and yield them unchanged."""
        for block in blocks:
            self._n_samples += len(block)
            self._sums += block.sum(axis=0, dtype=np.float64)
            self._products += block.T @ block
            yield block

    def differ(self) -> bool:
        """Whether two channels correlate by less than `DIFFERENT_CORRELATION`."""
        means = self._sums / max(self._n_samples, 1)
        covariances = self._products / max(self._n_samples, 1) - np.outer(means, means)
        powers = np.diag(covariances)
        loud = powers > SILENT_CHANNEL_POWER * powers.max()
        if np.count_nonzero(loud) < 2:
            return False
        scales = np.sqrt(powers[loud])
        correlations = covariances[np.ix_(loud, loud)] / np.outer(scales, scales)
        return bool(correlations.min() < DIFFERENT_CORRELATION)
