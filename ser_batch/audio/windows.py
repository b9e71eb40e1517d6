"""From recording to its log-mel windows: decoded, checked and cut in one pass over the audio.

Records and inference both go through here, so that a score describes what a prediction is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import soxr

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.logmels import log_mel_at_rate, log_mel_of_trimmed, resample, trimmed
from ser_batch.audio.recordings import Recording
from ser_batch.audio.waveforms import Decoder, Float32s, mono_blocks, open_audio
from ser_batch.errors import AudioError

# A front end that truncates trims and filters a recording as a whole, so it holds all of it in memory.
MAX_WHOLE_SECS = 3600.0

MAX_SAMPLE = 2.0**40  # full scale is 1; beyond this the power spectrum leaves float32
QUIET_PEAK = 0.01  # 40 dB under full scale
SHORT_SECS = 0.5
END_TOLERANCE_SECS = 0.0005  # an end as asked may be rounded
CLIPPED_LEVEL = 0.999
CLIPPED_RUN = 4  # so many samples in a row at full scale: a peak-normalised recording has one or two


@dataclass(frozen=True, slots=True)
class Window:
    """One example.

    Attributes:
        log_mel: float32 ``(n_mels, n_frames)``.
        start_secs, end_secs: the part of the audio file that it stands for.
    """

    log_mel: Float32s
    start_secs: float
    end_secs: float


@dataclass
class LogMelWindows:
    """The windows of one recording, decoded while they are iterated, once.

    The windows that came before an `AudioError` are void: the recording is refused as a whole.

    Attributes:
        duration_secs: of the recording; known when all windows were read.
        warnings: codes a user should know: ``end-beyond``, ``clipped``, ``quiet``, ``short``, ``truncated``; likewise.
    """

    recording: Recording
    front_end: FrontEnd
    duration_secs: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Window]:
        """The windows in time order.

        Raises:
            AudioError: the recording cannot be decoded, or is refused: no samples, a sample that is not
                finite, nothing but zeros.
        """
        try:
            with open_audio(self.recording.path, self.recording.start_secs) as decoder:
                check = _SignalCheck(decoder.rate_hz, self.recording.start_secs)
                blocks = check.checked(self._part(decoder))
                make = self._truncated if self.front_end.longer == "truncate" else self._windowed
                yield from make(blocks, decoder.rate_hz, check)
        except MemoryError as error:
            raise AudioError("decode", "needs more memory than one worker may use; is its header damaged?") from error

    def _part(self, decoder: Decoder) -> Iterator[Float32s]:
        """The blocks up to the recording's end."""
        blocks = mono_blocks(decoder, self.front_end.channel)
        if self.recording.end_secs is None:
            yield from blocks
            return
        left = round((self.recording.end_secs - self.recording.start_secs) * decoder.rate_hz)
        for block in blocks:
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return
        if left > max(1, END_TOLERANCE_SECS * decoder.rate_hz):
            self.warnings.append("end-beyond")

    def _truncated(self, blocks: Iterator[Float32s], rate_hz: int, check: "_SignalCheck") -> Iterator[Window]:
        kept = []
        for block in blocks:
            kept.append(block)
            if check.n_samples > MAX_WHOLE_SECS * rate_hz:
                raise AudioError(
                    "check",
                    f"is longer than {MAX_WHOLE_SECS / 3600:g} h, all of which this front end would hold in memory; "
                    "give start and end, or use a front end with windows",
                )
        self.duration_secs = check.finish()
        heard = trimmed(resample(np.concatenate(kept), rate_hz, self.front_end.rate_hz), self.front_end)
        self.warnings += check.warnings()
        if len(heard) > self.front_end.n_samples:
            self.warnings.append("truncated")
        yield self._window(log_mel_of_trimmed(heard, self.front_end), 0.0, self.duration_secs)

    def _windowed(self, blocks: Iterator[Float32s], rate_hz: int, check: "_SignalCheck") -> Iterator[Window]:
        length, hop = self.front_end.n_samples, self.front_end.window_hop_samples
        target_hz = self.front_end.rate_hz
        held = np.zeros(0, dtype=np.float32)  # audio from `first` on
        first = 0  # where the next window starts, in samples at target_hz
        last: Float32s | None = None  # what lies before `held`, for a last window that ends with the audio
        for block in _resampled(blocks, rate_hz, target_hz):
            held = np.concatenate([held, block])
            # One sample more than a window: then the audio does not end with this one.
            while len(held) > length:
                yield self._window(
                    log_mel_at_rate(held[:length], self.front_end), first / target_hz, (first + length) / target_hz
                )
                last = held[:hop] if hop <= length else held[:length]
                held, first = held[hop:], first + hop
        self.duration_secs = check.finish()
        self.warnings += check.warnings()
        if last is not None:
            missing = max(length - len(held), 0)
            held, first = np.concatenate([last[len(last) - missing :], held]), first - missing
        end_secs = self.duration_secs
        yield self._window(log_mel_at_rate(held, self.front_end), first / target_hz, end_secs)

    def _window(self, log_mel: Float32s, start_secs: float, end_secs: float) -> Window:
        origin = self.recording.start_secs
        return Window(log_mel, origin + start_secs, origin + end_secs)


def _resampled(blocks: Iterator[Float32s], rate_hz: int, target_hz: int) -> Iterator[Float32s]:
    if rate_hz == target_hz:
        yield from blocks
        return
    stream = soxr.ResampleStream(rate_hz, target_hz, 1, dtype="float32", quality="soxr_hq")
    for block in blocks:
        yield stream.resample_chunk(np.ascontiguousarray(block))
    yield stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)


class _SignalCheck:
    """Looks at every sample as it passes: refuses what cannot be used, notes what a user should know."""

    def __init__(self, rate_hz: int, start_secs: float) -> None:
        self.n_samples = 0
        self._rate_hz = rate_hz
        self._start_secs = start_secs
        self._peak = 0.0
        self._clipped = False

    def checked(self, blocks: Iterator[Float32s]) -> Iterator[Float32s]:
        """The blocks that hold samples."""
        for block in blocks:
            if len(block):
                self._look_at(block)
                yield block

    def _look_at(self, block: Float32s) -> None:
        peak = max(float(block.max()), -float(block.min()))
        if np.isfinite(peak) and peak > MAX_SAMPLE:
            raise AudioError("check", f"has a sample of {peak:g}, where full scale is 1: not a recording's")
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
        """The duration in seconds of a recording that is not refused."""
        if not self.n_samples:
            where = f" from {self._start_secs:g} s on" if self._start_secs else ""
            raise AudioError("check", f"has no samples{where}")
        if not self._peak:
            raise AudioError("check", "is digital silence: every sample is zero")
        return self.n_samples / self._rate_hz

    def warnings(self) -> list[str]:
        codes = {
            "clipped": self._clipped,
            "quiet": self._peak < QUIET_PEAK,
            "short": self.n_samples < SHORT_SECS * self._rate_hz,
        }
        return [code for code, applies in codes.items() if applies]
