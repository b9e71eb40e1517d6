"""Files of this machine, and of object stores and web servers, by path or URL.

Recordings, inputs and outputs may be at ``s3://bucket/key``, ``gs://…`` or ``az://…``, and recordings at ``https://…``.
pyarrow, which is installed anyway, reads the store: TensorFlow's file systems would take seconds to import in every
worker.
"""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Sequence
from typing import NamedTuple

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
STORES = ("s3", "gs", "az")
WEB = ("http", "https")
_STORE_URLS, _WEB_URLS = (tuple(f"{scheme}://" for scheme in schemes) for schemes in (STORES, WEB))
_ONE_SLASH = re.compile(rf"\b({'|'.join(STORES + WEB)}):/(?!/)")


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
    """Whether a path is the URL of an object in a supported store, or of a file on a web server."""
    return path.startswith(_STORE_URLS + _WEB_URLS)


def is_web(path: str) -> bool:
    """Whether a path is the URL of a file on a web server."""
    return path.startswith(_WEB_URLS)


def as_url(path: str | os.PathLike[str]) -> str | None:
    """The URL of an object or prefix of a store that a path stands for; None: it is none."""
    text = os.fspath(path)
    text = with_whole_urls(text) if _ONE_SLASH.match(text) else text
    return text.rstrip("/") if text.startswith(_STORE_URLS) else None


def with_whole_urls(text: str) -> str:
    """A text in which URLs have two slashes again: `pathlib` makes one of them."""
    return _ONE_SLASH.sub(r"\1://", text)


def url_problem(path: str, schemes: Sequence[str] = ()) -> str | None:
    """The error for a path that is a URL (it would be read as a local folder ``gs:``); None for other paths.

    Args:
        path: as given by the user.
        schemes: of URLs that it may be.
    """
    scheme = _URL.match(path)
    if scheme is None or scheme[1] in schemes:
        return None
    if schemes:
        *others, last = (f"{one}://" for one in schemes)
        supported = f"only local files, {', '.join(others)} and {last} are supported here"
        return f"is a URL ({scheme[1]}://), and {supported}; copy it to one of these"
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
