"""From audio file to waveform: blocks of float32 samples at the file's own rate.

libsndfile decodes what it can; FFmpeg (PyAV) decodes the rest: what phones and call centres send. The
choice is made by content. A header is a claim: blocks are read until the data end, and nothing is
allocated by a length that a header names.
"""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser_batch.errors import AudioError

Float32s = NDArray[np.float32]

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64
_BLOCK_SAMPLES = 1 << 16

# FFmpeg's readers of containers that hold audio. Playlists and scripts, which name other files, are not among them.
_FFMPEG_FORMATS = (
    "aac,ac3,aiff,amr,amrnb,amrwb,ape,asf,au,avi,caf,flac,flv,gsm,matroska,webm,mov,mp4,m4a,3gp,3g2,mj2,"
    "mp3,mpeg,mpegts,ogg,opus,tta,w64,wav,wv"
)


@dataclass(frozen=True)
class Decoder:
    """An open recording.

    Attributes:
        rate_hz: the file's own sampling rate.
        channels: number of channels.
        blocks: consecutive blocks of the audio, float32 ``(samples, channels)``; reading them raises
            `AudioError` where the data turn out to be damaged.
    """

    rate_hz: int
    channels: int
    blocks: Iterator[NDArray[np.float32]]


class _Unnamed(io.BufferedReader):
    """An open file whose decoders see no extension: libsndfile wants to be told the rate of what is called ``.raw``."""

    name = "audio"


def _open_unnamed(path: str | Path) -> _Unnamed:
    # A named pipe that nobody writes to would block for ever.
    return _Unnamed(io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)))


@contextmanager
def open_audio(path: str | Path, start_secs: float = 0.0) -> Iterator[Decoder]:
    """Open an audio or video file for decoding.

    Args:
        path: any file that libsndfile or FFmpeg reads, whatever its extension.
        start_secs: where in the file the first block begins.

    Raises:
        AudioError: the file cannot be read, holds no audio, or claims what no recording has.
    """
    try:
        file = _open_unnamed(path)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise AudioError("read", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    with file:
        try:
            if not file.read(1):
                raise AudioError("decode", "is empty (0 bytes)")
            file.seek(0)
            try:
                sound = soundfile.SoundFile(file)
            except soundfile.SoundFileError as refusal:
                file.seek(0)
                with _open_ffmpeg(file, start_secs, str(refusal)) as decoder:
                    yield decoder
            else:
                with sound:
                    _check_claims(sound.samplerate, sound.channels)
                    yield Decoder(sound.samplerate, sound.channels, _soundfile_blocks(sound, start_secs))
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise AudioError("decode", "is damaged: it points outside itself") from error
            raise AudioError("read", f"cannot be read: {error.strerror or error}") from error


def _check_claims(rate_hz: int, channels: int) -> None:
    if not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError("decode", f"claims {rate_hz} Hz; readable are {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")
    if not 1 <= channels <= MAX_CHANNELS:
        raise AudioError("decode", f"claims {channels} channels; readable are 1 to {MAX_CHANNELS}")


def _soundfile_blocks(sound: soundfile.SoundFile, start_secs: float) -> Iterator[NDArray[np.float32]]:
    try:
        if start_secs > 0:
            sound.seek(min(round(start_secs * sound.samplerate), sound.frames))
        while True:
            block = sound.read(_BLOCK_SAMPLES // sound.channels or 1, dtype="float32", always_2d=True)
            if not len(block):
                return
            yield block
    except soundfile.SoundFileError as error:
        raise AudioError("decode", f"is damaged: {_one_line(str(error))}") from error


@contextmanager
def _open_ffmpeg(file: IO[bytes], start_secs: float, refusal: str) -> Iterator[Decoder]:
    import av  # 0.1 s, and only files that libsndfile refuses need it

    av.logging.set_level(av.logging.PANIC)
    try:
        container = av.open(file, options={"format_whitelist": _FFMPEG_FORMATS, "protocol_whitelist": ""})
    except (av.FFmpegError, ValueError, UnicodeDecodeError) as error:
        detail = _one_line(refusal.rsplit(": ", 1)[-1])
        raise AudioError("decode", f"is not audio that libsndfile or FFmpeg can read ({detail})") from error
    with container:
        if not container.streams.audio:
            raise AudioError("decode", "has no audio track")
        stream = container.streams.audio[0]
        if stream.codec_context is None:
            raise AudioError("decode", "has an audio track in a codec that FFmpeg does not know; it may be damaged")
        rate_hz, channels = stream.codec_context.sample_rate, stream.codec_context.channels
        _check_claims(rate_hz, channels)
        yield Decoder(rate_hz, channels, _ffmpeg_blocks(container, stream, start_secs))


def _ffmpeg_blocks(container, stream, start_secs: float) -> Iterator[NDArray[np.float32]]:  # type: ignore[no-untyped-def]
    import av

    rate_hz, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    to_skip = round(start_secs * rate_hz)  # not sought: not every container says where its frames lie
    # PyAV looks for more than 8 planes behind the end of their list; packed samples are one plane.
    sample_format = "fltp" if channels <= 8 else "flt"
    to_float = av.AudioResampler(format=sample_format, layout=stream.codec_context.layout, rate=rate_hz)
    try:
        for frame in container.decode(stream):
            for converted in to_float.resample(frame):
                if converted.layout.nb_channels != channels or converted.sample_rate != rate_hz:
                    raise AudioError("decode", "changes its rate or its number of channels midway")
                samples = converted.to_ndarray().astype(np.float32, copy=False)
                block = samples.T if converted.format.is_planar else samples.reshape(-1, channels)
                if to_skip >= len(block):
                    to_skip -= len(block)
                    continue
                yield block[to_skip:]
                to_skip = 0
    except (av.FFmpegError, ValueError, IndexError) as error:  # IndexError: a packet of a track that no header named
        raise AudioError("decode", f"is damaged: {_one_line(str(error))}") from error


def mono_blocks(decoder: Decoder, channel: Literal["mean"] | int) -> Iterator[Float32s]:
    """The blocks of one channel, or of the mean of all, float32 ``(samples,)``.

    Raises:
        AudioError: the recording has no such channel.
    """
    if channel != "mean" and channel >= decoder.channels:
        raise AudioError("check", f"has no channel {channel}: it has {decoder.channels}, counted from 0")
    for block in decoder.blocks:
        if channel != "mean":
            yield block[:, channel]
        else:
            yield block[:, 0] if decoder.channels == 1 else block.mean(axis=1)


def _one_line(text: str) -> str:
    return " ".join(text.split())
