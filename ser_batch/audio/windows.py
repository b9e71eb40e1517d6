"""Log-mel windows of a recording: decoded, checked and cut in one pass over the audio.

Record folders and inference both use this module, so that scores on records apply to predictions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import soxr
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.logmels import log_mel_at_rate, log_mel_of_trimmed, resample, trimmed
from ser_batch.audio.signal_checks import ChannelCheck, SignalCheck
from ser_batch.audio.waveforms import mono_blocks, open_audio
from ser_batch.corpus.table import Recording
from ser_batch.errors import AudioError
from ser_batch.runtime.engine import watched

# Limit for front ends that truncate: they trim and filter the whole recording, so it is in memory as a whole.
MAX_WHOLE_SECS = 3600.0

END_TOLERANCE_SECS = 0.0005  # a requested end may be rounded


@dataclass(frozen=True, slots=True)
class Window:
    """One example.

    Attributes:
        log_mel: float32 ``(n_mels, n_frames)``.
        start_secs, end_secs: the part of the audio file, in seconds.
    """

    log_mel: Float32s
    start_secs: float
    end_secs: float


@dataclass
class LogMelWindows:
    """The windows of one recording, decoded during iteration; can be iterated once.

    After an `AudioError`, the windows before it must be discarded: the whole recording is unusable.

    Attributes:
        duration_secs: of the recording; known after all windows are read.
        warnings: codes, known after all windows are read: ``end-beyond``, ``clipped``, ``quiet``, ``short``; ``cut``:
            audio is missing, by the file's header; ``channels-differ``: the channels are too different for their mean;
            ``beginning-only``: only the beginning is used.
    """

    recording: Recording
    front_end: FrontEnd
    duration_secs: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Window]:
        """The windows in time order.

        Raises:
            AudioError: the recording cannot be decoded, or is unusable: no samples, a sample that is not
                finite, only zeros.
        """
        try:
            with watched(), open_audio(self.recording.path, self.recording.start_secs) as decoder:
                is_mixed = self._channel == "mean" and decoder.channels > 1
                check = SignalCheck(decoder.rate_hz, self.recording.start_secs, is_mixed)
                channels = ChannelCheck(decoder.channels) if is_mixed else None
                decoder.blocks = self._until_end(decoder.blocks, decoder.rate_hz)
                if channels is not None:
                    decoder.blocks = channels.checked(decoder.blocks)
                blocks = check.checked(mono_blocks(decoder, self._channel))
                make = self._truncated if self.front_end.longer == "truncate" else self._windowed
                yield from make(blocks, decoder.rate_hz, check)
                if decoder.is_cut:
                    self.warnings.append("cut")
                if channels is not None and channels.differ():
                    self.warnings.append("channels-differ")
        except MemoryError as error:
            raise AudioError("decode", "needs more memory than a worker may use; its header may be damaged") from error

    @property
    def _channel(self) -> Literal["mean"] | int:
        return self.front_end.channel if self.recording.channel is None else self.recording.channel

    def _until_end(self, blocks: Iterator[NDArray[np.float32]], rate_hz: int) -> Iterator[NDArray[np.float32]]:
        """The blocks ``(samples, channels)`` up to the recording's end."""
        if self.recording.end_secs is None:
            yield from blocks
            return
        left = round((self.recording.end_secs - self.recording.start_secs) * rate_hz)
        for block in blocks:
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return
        if left > max(1, END_TOLERANCE_SECS * rate_hz):
            self.warnings.append("end-beyond")

    def _truncated(self, blocks: Iterator[Float32s], rate_hz: int, check: SignalCheck) -> Iterator[Window]:
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
        samples = trimmed(resample(np.concatenate(kept), rate_hz, self.front_end.rate_hz), self.front_end)
        self.warnings += check.warnings()
        if len(samples) > self.front_end.n_samples:
            self.warnings.append("beginning-only")
        yield self._window(log_mel_of_trimmed(samples, self.front_end), 0.0, self.duration_secs)

    def _windowed(self, blocks: Iterator[Float32s], rate_hz: int, check: SignalCheck) -> Iterator[Window]:
        length, hop = self.front_end.n_samples, self.front_end.window_hop_samples
        target_hz = self.front_end.rate_hz
        buffer = np.zeros(0, dtype=np.float32)  # audio from `first` on
        first = 0  # start of the next window, in samples at target_hz
        last: Float32s | None = None  # audio before `buffer`, for a last window that ends with the audio
        for block in _resampled(blocks, rate_hz, target_hz):
            buffer = np.concatenate([buffer, block])
            # One sample more than a window: the audio does not end with this window.
            while len(buffer) > length:
                yield self._window(
                    log_mel_at_rate(buffer[:length], self.front_end), first / target_hz, (first + length) / target_hz
                )
                last = buffer[:hop] if hop <= length else buffer[:length]
                buffer, first = buffer[hop:], first + hop
        self.duration_secs = check.finish()
        self.warnings += check.warnings()
        if last is not None:
            missing = max(length - len(buffer), 0)
            buffer, first = np.concatenate([last[len(last) - missing :], buffer]), first - missing
        end_secs = self.duration_secs
        yield self._window(log_mel_at_rate(buffer, self.front_end), first / target_hz, end_secs)

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
