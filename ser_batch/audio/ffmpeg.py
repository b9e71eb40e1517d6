"""FFmpeg (PyAV) as a decoder, from any point of the file to the real end of the data.

Damaged packets are skipped and reported, so that one bad frame costs a few milliseconds and not the recording.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import IO, TypeAlias

import av
import numpy as np
from av.audio import AudioStream
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from ser_batch.audio.containers import (
    has_concatenated_file,
    has_undeclared_data,
    is_shorter_than_declared,
    is_truncated_ogg,
    mp3_declared_secs,
)
from ser_batch.audio.decoders import DURATION_TOLERANCE_SECS, Decoder, check_format, one_line
from ser_batch.errors import AudioError
from ser_batch.runtime.engine import heartbeat

_Packet: TypeAlias = "Packet[AudioStream]"

# FFmpeg's demuxers of containers with audio. Playlists and scripts, which refer to other files, are not included.
_FORMATS = (
    "aac,ac3,eac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,ogg,opus,tta,voc,w64,wav,wv"
)
# Containers with an index for seeking. In all others, packets before the start are read and not decoded.
_INDEXED = {"mov", "matroska"}
# Codecs depend on previous packets: decoding starts earlier by this much, to give the same samples as a full decode.
_PREROLL_SECS = 1.0
# A larger backward step of timestamps is the beginning of the next of several joined files.
_STEP_BACK_SECS = 0.2
_PACKETS_PER_HEARTBEAT = 1000

# Tags between joined files, which are not audio.
_TAGS = (b"ID3", b"TAG", b"APETAGEX", b"LYRICSBEGIN", b"#!AMR")


@contextmanager
def open_ffmpeg(file: IO[bytes], start_secs: float, refusal: str) -> Iterator[Decoder]:
    """Open a file that libsndfile cannot read.

    Args:
        file: at its beginning.
        start_secs: start of the first block in the file, in seconds.
        refusal: the reason that libsndfile cannot read it.

    Raises:
        AudioError: FFmpeg cannot read the file, or its header has implausible values.
    """
    av.logging.set_level(av.logging.PANIC)
    with closing(_Decoding(file, refusal)) as decoding:
        decoding.decoder.blocks = decoding.blocks(start_secs)
        yield decoding.decoder


def _open_container(file: IO[bytes], refusal: str) -> InputContainer:
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    try:
        return av.open(file, "r", options={"format_whitelist": _FORMATS, "protocol_whitelist": ""})
    except (av.FFmpegError, ValueError, UnicodeDecodeError) as error:
        if head[4:8] == b"ftyp":
            reason = "has no index (moov): its end is missing, or the recording was interrupted"
        else:
            reason = f"is not audio that libsndfile or FFmpeg can read ({one_line(refusal)})"
        raise AudioError("decode", reason) from error


class _TimestampsError(Exception):
    """A sample cannot be located by timestamps, for example in joined files: decode from the beginning instead."""


class _Decoding:
    """One pass over the first audio stream of a file."""

    def __init__(self, file: IO[bytes], refusal: str) -> None:
        self._file = file
        self._refusal = refusal
        self._n_decoded = self._n_damaged = 0
        self._open()
        codec = self._stream.codec_context
        self.decoder = Decoder(codec.sample_rate, codec.channels)

    def _open(self) -> None:
        self._container = _open_container(self._file, self._refusal)
        if not self._container.streams.audio:
            raise AudioError("decode", "has no audio track")
        self._stream = stream = self._container.streams.audio[0]
        codec = stream.codec_context
        if codec is None:
            raise AudioError("decode", "has an audio track in a codec that FFmpeg does not support; it may be damaged")
        check_format(codec.sample_rate, codec.channels)
        self._format = self._container.format.name.split(",")[0]
        self._secs_per_tick = float(stream.time_base or 0)
        self._samples_per_tick = self._secs_per_tick * codec.sample_rate
        # With more than 8 planes PyAV reads past the end of their list; packed samples are one plane.
        sample_format = "fltp" if codec.channels <= 8 else "flt"
        self._to_float = av.AudioResampler(format=sample_format, layout=codec.layout, rate=codec.sample_rate)

    def close(self) -> None:
        """Close the container."""
        self._container.close()

    def blocks(self, start_secs: float) -> Iterator[NDArray[np.float32]]:
        """The audio from ``start_secs`` on, float32 ``(samples, channels)``."""
        position = start = round(start_secs * self.decoder.rate_hz)
        try:
            declared_secs = self._declared_secs()
            for place, block in self._placed(start):
                skipped = min(max(start - place, 0), len(block))
                if skipped < len(block):
                    yield block[skipped:]
                    position = place + len(block)
        except (
            av.FFmpegError,
            ValueError,
            IndexError,
        ) as error:  # IndexError: a packet of a track without a header
            if not self._n_decoded:
                raise AudioError("decode", f"is damaged: {one_line(str(error))}") from error
            self._n_damaged += 1
        if self._n_damaged > self._n_decoded:
            raise AudioError("decode", f"is damaged: {self._n_damaged} of its packets cannot be decoded")
        secs = position / self.decoder.rate_hz
        missed = declared_secs is not None and secs < declared_secs - DURATION_TOLERANCE_SECS
        self.decoder.is_cut = bool(self._n_damaged) or missed or self._end_is_missing(secs)

    def _placed(self, start: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Blocks with the number of their first sample, from some time before the sample ``start`` on."""
        early = start - round(_PREROLL_SECS * self.decoder.rate_hz)
        if early > 0:
            try:
                yield from self._from(early)
                return
            except _TimestampsError:
                self.close()
                self._open()
                self._n_decoded = self._n_damaged = 0
        place = 0
        for packet in self._packets():
            for _, block in self._decoded(packet):
                yield place, block
                place += len(block)

    def _packets(self) -> Iterator[_Packet]:
        for number, packet in enumerate(self._container.demux(self._stream)):
            if number % _PACKETS_PER_HEARTBEAT == 0:
                heartbeat()
            yield packet

    def _from(self, early: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """As `_placed`, by timestamps.

        Raises:
            _TimestampsError: the sample cannot be located by timestamps.
        """
        packets = self._packets()
        origin = self._first_timestamp(packets)
        begin = round(early / self._samples_per_tick) + origin
        if self._format in _INDEXED:
            try:
                self._container.seek(begin, stream=self._stream)
            except av.FFmpegError as error:
                raise _TimestampsError from error
            packets = self._packets()
        place: int | None = None
        for packet in self._after(begin, packets):
            for timestamp, block in self._decoded(packet):
                if place is None:
                    if timestamp is None:
                        continue
                    place = round((timestamp - origin) * self._samples_per_tick)
                    if place > early + _PREROLL_SECS * self.decoder.rate_hz:
                        raise _TimestampsError
                yield place, block
                place += len(block)

    def _first_timestamp(self, packets: Iterator[_Packet]) -> int:
        """The timestamp of the first sample."""
        for packet in packets:
            for timestamp, _ in self._decoded(packet):
                if timestamp is not None:
                    return int(timestamp)
        return 0

    def _after(self, begin: int, packets: Iterator[_Packet]) -> Iterator[_Packet]:
        """The packets from a timestamp on; earlier packets are read and not decoded.

        Raises:
            _TimestampsError: timestamps restart before it.
        """
        self._stream.codec_context.flush_buffers()
        end: int | None = None
        for packet in packets:
            if packet.pts is not None:
                if end is not None and (end - packet.pts) * self._secs_per_tick > _STEP_BACK_SECS:
                    raise _TimestampsError
                end = packet.pts + (packet.duration or 0)
            if not packet.size or (end is not None and end >= begin):
                yield packet
                yield from packets
                return
            if bytes(packet).startswith(_TAGS):
                raise _TimestampsError

    def _decoded(self, packet: _Packet) -> Iterator[tuple[int | None, NDArray[np.float32]]]:
        """The blocks of a packet with their timestamps; none if it is damaged."""
        try:
            frames = packet.decode()
        except (av.FFmpegError, ValueError):
            if not bytes(packet).startswith(_TAGS):
                self._n_damaged += 1
            return
        self._n_decoded += bool(frames)
        for frame in frames:
            for converted in self._to_float.resample(frame):
                layout, rate_hz = converted.layout, converted.sample_rate
                if layout.nb_channels != self.decoder.channels or rate_hz != self.decoder.rate_hz:
                    raise AudioError("decode", "changes its rate or its number of channels midway")
                samples = converted.to_ndarray().astype(np.float32, copy=False)
                is_planar = converted.format.is_planar
                yield frame.pts, samples.T if is_planar else samples.reshape(-1, self.decoder.channels)

    def _declared_secs(self) -> float | None:
        """The length in the header; None if it has none: streams of frames, and files written to a pipe."""
        stream, container = self._stream, self._container
        if self._format == "mp3":
            position = self._file.tell()
            declared_secs = mp3_declared_secs(self._file, self.decoder.rate_hz)
            self._file.seek(position)
            return declared_secs
        if self._format == "caf" and stream.codec_context.name.startswith("pcm"):
            return stream.frames / self.decoder.rate_hz or None
        if self._format in {"mov", "tta", "wv", "ape", "flac", "wav", "aiff", "au", "w64"} and stream.duration:
            return float(stream.duration) * self._secs_per_tick
        if self._format in {"matroska", "asf", "flv"} and container.duration:
            return container.duration / av.time_base
        return None

    def _end_is_missing(self, secs: float) -> bool:
        if self._format == "ogg":
            return is_truncated_ogg(self._file)
        checks = (is_shorter_than_declared, has_concatenated_file, partial(has_undeclared_data, secs=secs))
        return any(check(self._file, self._format) for check in checks)
