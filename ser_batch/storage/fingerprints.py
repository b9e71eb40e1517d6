"""SHA-256 of JSON values, files and audio."""

import hashlib
import io
import json
import os
from collections.abc import Iterable
from functools import lru_cache
from itertools import islice
from pathlib import Path

from ser_batch.errors import AudioError
from ser_batch.storage.filesystems import buffer_bytes, file_status, open_raw


def audio_sha256(path: str) -> str:
    """The SHA-256 of an audio file, in hex.

    Raises:
        AudioError: the file cannot be read.
    """
    try:
        status = file_status(path)
        if not status.is_regular:  # reading a pipe could block the batch for ever
            raise AudioError("read", "is not a regular file")
        return _stat_sha256(path, status.size, status.mtime_ns)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise AudioError("read", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


@lru_cache(maxsize=16)
def _stat_sha256(path: str, size: int, mtime_ns: int) -> str:
    """Cached, because a CSV may have many parts of one long file."""
    return file_sha256(path)


def json_fingerprint(content: object) -> str:
    """The SHA-256, in hex, of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(_canonical(content)).hexdigest()


def json_list_fingerprint(items: Iterable[object]) -> str:
    """The `json_fingerprint` of the list of these items; only a few are in memory at a time."""
    digest = hashlib.sha256(b"[")
    coming = iter(items)
    comma = b""
    while some := list(islice(coming, 1000)):
        digest.update(comma + _canonical(some)[1:-1])
        comma = b","
    digest.update(b"]")
    return digest.hexdigest()


def _canonical(content: object) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    name = os.fspath(path)
    with io.BufferedReader(open_raw(name), buffer_bytes(name)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
