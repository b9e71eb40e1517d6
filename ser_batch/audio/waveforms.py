"""Decode audio files to waveforms: blocks of float32 samples at the file's own rate.

libsndfile decodes containers of plain samples; FFmpeg (`ser_batch.audio.ffmpeg`) decodes MP3, Ogg, FLAC and CAF, and
all files that libsndfile cannot read. The choice depends on the content. Lengths in headers are not trusted: blocks
are read to the real end of the data, no memory is allocated by such a length, and missing audio is reported.
"""

import errno
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from ser_batch.audio.containers import has_concatenated_file, has_undeclared_data
from ser_batch.audio.decoders import DURATION_TOLERANCE_SECS, Decoder, Float32s, check_format, one_line
from ser_batch.errors import AudioError
from ser_batch.runtime.engine import heartbeat
from ser_batch.storage.filesystems import buffer_bytes, open_raw

_BLOCK_SAMPLES = 1 << 16

# In these, libsndfile stops at an estimated length or after the first of several parts, or fails on an unknown length.
_FFMPEG_FORMATS = {"MP3", "OGG", "FLAC", "CAF", "VOC"}


class _UnnamedFile(io.BufferedReader):
    """An open file without its name, because libsndfile requires a sampling rate for names that end with ``.raw``."""

    name = "audio"


def _open_unnamed(path: str | Path) -> _UnnamedFile:
    name = os.fspath(path)
    return _UnnamedFile(open_raw(name), buffer_bytes(name))


@contextmanager
def open_audio(path: str | Path, start_secs: float = 0.0) -> Iterator[Decoder]:
    """Open an audio or video file for decoding.

    Args:
        path: any file that libsndfile or FFmpeg can read; its extension is ignored.
        start_secs: start of the first block in the file, in seconds.

    Raises:
        AudioError: the file cannot be read, holds no audio, or its header has implausible values.
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
            sound = _open_soundfile(file)
            if isinstance(sound, str):
                # The import takes 0.1 s, and few corpora need it.
                from ser_batch.audio.ffmpeg import open_ffmpeg

                file.seek(0)
                with open_ffmpeg(file, start_secs, sound) as decoder:
                    yield decoder
            else:
                with sound:
                    check_format(sound.samplerate, sound.channels)
                    decoder = Decoder(sound.samplerate, sound.channels)
                    decoder.blocks = _soundfile_blocks(sound, file, start_secs, decoder)
                    yield decoder
        except OSError as error:
            if error.errno == errno.EINVAL:
                raise AudioError("decode", "is damaged: an offset in it is outside the file") from error
            raise AudioError("read", f"cannot be read: {error.strerror or error}") from error


def _open_soundfile(file: _UnnamedFile) -> soundfile.SoundFile | str:
    """Open the file with libsndfile; or the reason to use FFmpeg."""
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.SoundFileError as error:
        return one_line(str(error).rsplit(": ", 1)[-1])
    # An interrupted recorder leaves a WAV with 0 samples in its header; FFmpeg reads it to the end.
    if sound.format in _FFMPEG_FORMATS or sound.subtype.startswith("MPEG_LAYER") or not sound.frames:
        sound.close()
        return f"{sound.format} without samples"
    return sound


def _soundfile_blocks(
    sound: soundfile.SoundFile, file: IO[bytes], start_secs: float, decoder: Decoder
) -> Iterator[NDArray[np.float32]]:
    start = min(round(start_secs * sound.samplerate), sound.frames)
    n_read = 0
    try:
        if start > 0:
            sound.seek(start)
        while True:
            block = sound.read(_BLOCK_SAMPLES // sound.channels or 1, dtype="float32", always_2d=True)
            if not len(block):
                break
            n_read += len(block)
            yield block
    except soundfile.SoundFileError as error:
        raise AudioError("decode", f"is damaged: {one_line(str(error))}") from error
    missing = sound.frames - start - n_read
    decoder.is_cut = missing > DURATION_TOLERANCE_SECS * sound.samplerate or _contradicts_header(sound, file)


# Entries in libsndfile's log about headers with a larger size than the file. Sizes from 2^31 - 2^16 on mean "unknown":
# they are written before the length is known.
_DECLARED_SIZE = re.compile(r"^\s*(?:data|SSND|BODY|riff|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN_SIZE = (1 << 31) - (1 << 16)
_DECLARED_FRAMES = re.compile(r"'ds64' chunk of (\d+)|^\s*Frames\s*: (\d+)", re.MULTILINE)


def _contradicts_header(sound: soundfile.SoundFile, file: IO[bytes]) -> bool:
    """Whether the file has fewer or more samples than its header claims."""
    log = sound.extra_info
    sizes = [(int(declared), int(there)) for declared, there in _DECLARED_SIZE.findall(log)]
    if any(there < declared < _UNKNOWN_SIZE for declared, there in sizes) or "truncated" in log:
        return True
    if any(sound.frames < int("".join(one)) < 1 << 62 for one in _DECLARED_FRAMES.findall(log)):
        return True
    container = "wav" if sound.format == "WAVEX" else sound.format.lower()
    # If the number of samples is known, the data after them can be identified.
    is_counted = container == "wav" and not any(declared >= _UNKNOWN_SIZE for declared, _ in sizes)
    return (not is_counted and has_concatenated_file(file, container)) or has_undeclared_data(
        file, container, sound.frames / sound.samplerate
    )


def mono_blocks(decoder: Decoder, channel: Literal["mean"] | int) -> Iterator[Float32s]:
    """The blocks of one channel, or of the mean of all, float32 ``(samples,)``.

    Raises:
        AudioError: there is no such channel.
    """
    if channel != "mean" and channel >= decoder.channels:
        raise AudioError("check", f"has no channel {channel}: it has {decoder.channels}, counted from 0")
    for block in decoder.blocks:
        heartbeat()
        if channel != "mean":
            yield block[:, channel]
        else:
            yield block[:, 0] if decoder.channels == 1 else block.mean(axis=1)
