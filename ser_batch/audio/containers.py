"""Detection of missing audio from a container's structure: claimed lengths, end marks, joined files."""

import io
import re
import struct
from typing import IO, Any

from ser_batch.audio.decoders import DURATION_TOLERANCE_SECS

_UNKNOWN_LENGTH = 0xFFFFFFFF
# The file properties object (Advanced Systems Format specification, section 3.2); it has the file's size at 40.
_ASF_FILE_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_ID3_HEADER_BYTES = 10
_OGG_HEADER_BYTES = 27
_LARGEST_OGG_PAGE = _OGG_HEADER_BYTES + 255 + 255 * 255

# First bytes of each container. Of joined files, decoders read only the first, or decode the next header as audio.
_SIGNATURES = {
    "wav": rb"RIFF.{4}WAVE",
    "rf64": rb"(?:RIFF|RF64).{4}WAVE",
    "au": rb"\.snd\x00\x00",
    "w64": rb"riff\x2e\x91\xcf\x11",
    "voc": rb"Creative Voice File\x1a",
    "avi": rb"RIFF.{4}AVI ",
    "mov": rb"\x00\x00\x00.ftyp[\w ]{4}",
    "matroska": rb"\x1aE\xdf\xa3.{1,60}?(?:matroska|webm)",
    "flv": rb"FLV\x01[\x01\x04\x05]\x00\x00\x00\x09",
    "tta": rb"TTA1[\x01-\x03]\x00",
    "asf": rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c",
}
_MAX_SIGNATURE_BYTES = 128
_BLOCK_BYTES = 1 << 20


def has_concatenated_file(file: IO[bytes], container: str) -> bool:
    """Whether a second file of the same container follows the first, as after ``cat a b``.

    Args:
        file: on disk.
        container: FFmpeg's name, such as ``matroska``; False for containers that are not in `_SIGNATURES`.
    """
    if container not in _SIGNATURES:
        return False
    beginning = re.compile(_SIGNATURES[container], re.DOTALL)
    file.seek(8)
    block = b""
    while more := file.read(_BLOCK_BYTES):
        block = block[-_MAX_SIGNATURE_BYTES:] + more
        if beginning.search(block):
            return True
    return False


# Offset of a container's first chunk, format of a chunk's header (name, length), and name of the chunk with samples.
_CHUNKS = {"wav": (12, "<4sI", b"data"), "aiff": (12, ">4sI", b"SSND"), "caf": (8, ">4sq", b"data")}
# First bytes of the next of several joined files.
_FILE_NAMES = {b"RIFF", b"RIFX", b"FORM", b"caff"}


def has_undeclared_data(file: IO[bytes], container: str, secs: float) -> bool:
    """Whether data that belong to no chunk follow the samples that the header counts; probably more samples.

    Args:
        file: a WAV, AIFF, CAF or AU.
        container: ``wav``, ``aiff``, ``caf`` or ``au``; False for others.
        secs: length of the samples that the header counts.
    """
    size = file.seek(0, io.SEEK_END)
    return _undeclared_bytes(file, container, size) * secs > DURATION_TOLERANCE_SECS * size


def _undeclared_bytes(file: IO[bytes], container: str, size: int) -> int:
    if container == "au":
        file.seek(4)
        begin, length = struct.unpack(">II", file.read(8))
        return 0 if length == _UNKNOWN_LENGTH else max(size - begin - length, 0)
    at, form, samples = _CHUNKS.get(container, (size, "<4sI", b""))
    n_header, found_samples = struct.calcsize(form), False
    while at + n_header <= size:
        file.seek(at)
        name, length = struct.unpack(form, file.read(n_header))
        behind = at + n_header + length + (length % 2 if container != "caf" else 0)
        is_chunk = all(0x20 <= byte < 0x7F for byte in name) and at < behind <= size + 1 and name not in _FILE_NAMES
        if found_samples and not is_chunk:
            return size - at
        if name == samples and not length:  # the length was unknown when the header was written
            return 0
        found_samples = found_samples or name == samples
        if length < 0:
            break
        at = behind
    return 0


def is_shorter_than_declared(file: IO[bytes], container: str) -> bool:
    """Whether a file is shorter than the length in its header.

    Args:
        file: an AVI, or an ASF (WMA).
        container: ``avi`` or ``asf``; False for others.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(4096)
    if container == "avi":
        return size < 8 + int.from_bytes(head[4:8], "little")
    if container == "asf" and (at := head.find(_ASF_FILE_PROPERTIES)) >= 0:
        return size < int.from_bytes(head[at + 40 : at + 48], "little")
    return False


def mp3_declared_secs(file: IO[bytes], rate_hz: int) -> float | None:
    """Minimum length from the number of frames in the Xing, Info or VBRI header of an MP3; None without a header.

    Layout: https://www.codeproject.com/Articles/8295/MPEG-Audio-Frame-Header
    """
    file.seek(0)
    head = file.read(_ID3_HEADER_BYTES)
    tag_bytes = 0
    if head.startswith(b"ID3") and len(head) == _ID3_HEADER_BYTES:
        for byte in head[6:]:
            tag_bytes = tag_bytes << 7 | byte & 0x7F
        tag_bytes += _ID3_HEADER_BYTES
    file.seek(tag_bytes)
    frame = file.read(4096)
    found: tuple[Any, ...] | None = None
    for name, offset in ((b"Xing", 8), (b"Info", 8), (b"VBRI", 14)):
        at = frame.find(name)
        if 0 <= at <= len(frame) - 18 and (name == b"VBRI" or frame[at + 7] & 1):
            found = struct.unpack_from(">I", frame, at + offset)
    samples_per_frame = 1152 if rate_hz >= 32_000 else 576
    # The number includes the frames that encoders add before and after the audio.
    return None if found is None else (found[0] - 3) * samples_per_frame / rate_hz


def is_truncated_ogg(file: IO[bytes]) -> bool:
    """Whether an Ogg file does not end with a complete last page of its stream (RFC 3533, section 6)."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _LARGEST_OGG_PAGE, 0))
    tail = file.read()
    page = tail[max(tail.rfind(b"OggS"), 0) :]
    if len(page) < _OGG_HEADER_BYTES:
        return True
    n_segments = page[26]
    n_bytes = _OGG_HEADER_BYTES + n_segments + sum(page[_OGG_HEADER_BYTES : _OGG_HEADER_BYTES + n_segments])
    return len(page) < n_bytes or not page[5] & 4
