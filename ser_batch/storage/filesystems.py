"""Files of this machine, and objects of S3 stores, by path or URL.

Recordings, inputs and outputs may be at ``s3://bucket/key``. pyarrow, which is installed anyway, reads the store:
TensorFlow's file systems would take seconds to import in every worker.
"""

from __future__ import annotations

import io
import os
import re
import stat
from typing import NamedTuple

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_S3 = "s3://"


class FileStatus(NamedTuple):
    """Facts of a file or object.

    Attributes:
        size: in bytes.
        mtime_ns: time of the last change.
        is_regular: a file with content; not a pipe, a device or a folder.
    """

    size: int
    mtime_ns: int
    is_regular: bool


def is_url(path: str) -> bool:
    """Whether a path is the URL of an object in a supported store."""
    return path.startswith(_S3)


def as_url(path: str | os.PathLike[str]) -> str | None:
    """The URL of an object or prefix that a path stands for; None: it is local. `pathlib` makes one slash of two."""
    text = os.fspath(path)
    if text.startswith("s3:/") and not is_url(text):
        text = text.replace("s3:/", _S3, 1)
    return text.rstrip("/") if is_url(text) else None


def url_problem(path: str, may_be_remote: bool = False) -> str | None:
    """The error for a path that is a URL (it would be read as a local folder ``gs:``); None for other paths.

    Args:
        path: as given by the user.
        may_be_remote: it may be in a supported store.
    """
    scheme = _URL.match(path)
    if scheme is None or (may_be_remote and is_url(path)):
        return None
    if may_be_remote:
        return f"is a URL ({scheme[1]}://), and only local files and s3:// are supported; copy it to one of these"
    return f"is a URL ({scheme[1]}://), and only local files are supported here; give a local path"


def absolute_path(path: str) -> str:
    """The absolute path of a file; a URL is one."""
    return path if is_url(path) else os.path.abspath(path)


def file_status(path: str) -> FileStatus:
    """The status of a file or object.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: a zero byte is in the name.
    """
    if is_url(path):
        from ser_batch.storage.objects import object_status

        return object_status(path)
    status = os.stat(path)
    return FileStatus(status.st_size, status.st_mtime_ns, stat.S_ISREG(status.st_mode))


def open_raw(path: str) -> io.RawIOBase:
    """Open a file or object for reading in binary, without a buffer.

    Raises:
        OSError: it is missing, or cannot be read.
        ValueError: a zero byte is in the name.
    """
    if is_url(path):
        from ser_batch.storage.objects import ObjectFile

        return ObjectFile(path)
    # Non-blocking, because opening a named pipe without a writer would block forever.
    return io.FileIO(path, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def buffer_bytes(path: str) -> int:
    """The size of the buffer for reading: a request to a store takes much longer than one to a disk."""
    return 1 << 20 if is_url(path) else io.DEFAULT_BUFFER_SIZE
