"""TFRecord framing with masked CRCs."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO

import google_crc32c

from ser_batch.errors import RecordsError


def write_record(file: IO[bytes], serialized: bytes) -> None:
    """Append one record to a TFRecord file.

    The framing is TensorFlow's (tensorflow/core/lib/io/record_writer.h): length as uint64, its masked
    CRC-32C, the data, their masked CRC-32C, all little-endian.
    """
    length = struct.pack("<Q", len(serialized))
    file.write(length + _masked_crc(length))
    file.write(serialized)
    file.write(_masked_crc(serialized))


def read_records(file: IO[bytes]) -> Iterator[bytes]:
    """Read the records of a TFRecord file, and check their CRCs.

    Raises:
        RecordsError: the file is truncated or damaged; the message gives the reason.
    """
    while header := file.read(12):
        if len(header) < 12:
            raise RecordsError("ends in the middle of a record's length")
        if header[8:] != _masked_crc(header[:8]):
            raise RecordsError("has a record length whose CRC is wrong")
        (length,) = struct.unpack("<Q", header[:8])
        data, crc = file.read(length), file.read(4)
        if len(data) < length or len(crc) < 4:
            raise RecordsError("ends in the middle of a record")
        if crc != _masked_crc(data):
            raise RecordsError("has a record whose CRC is wrong")
        yield data


def _masked_crc(data: bytes) -> bytes:
    """CRC-32C, rotated right by 15 bits plus a constant: the mask of tensorflow/core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)
