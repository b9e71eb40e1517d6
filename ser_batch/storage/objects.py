"""Objects of S3, Google Cloud and Azure stores, through pyarrow, and files of web servers."""

from __future__ import annotations

import io
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pyarrow import fs

from ser_batch.storage.filesystems import FileStatus, is_url
from ser_batch.storage.stores import ATTEMPTS, store_of

_T = TypeVar("_T")

_FIRST_PAUSE_SECS = 0.2
_MESSAGE_LENGTH = 300


def list_objects(url: str) -> list[str]:
    """The keys of all objects below a prefix, relative to it, in the order of their text; hidden ones are left out.

    Args:
        url: for example ``s3://bucket/prefix``.

    Raises:
        OSError: the bucket is missing, or cannot be listed.
    """
    return sorted(_below(url))


def _below(url: str) -> dict[str, Any]:
    """Pyarrow's facts of the objects below a prefix, by relative key, without hidden ones."""
    place = _place(url).rstrip("/")
    found = _named(url, lambda: store_of(url).get_file_info(fs.FileSelector(place, recursive=True)))
    keys = {one.path[len(place) + 1 :]: one for one in found if one.type == fs.FileType.File}
    return {key: one for key, one in keys.items() if not any(part.startswith(".") for part in key.split("/"))}


def statuses(url: str) -> dict[str, FileStatus]:
    """The status of each object below a prefix, by its relative key, or of the one object, by ``""``; empty: none.

    Raises:
        OSError: the store cannot be read.
    """
    info = _info(url)
    if info.type == fs.FileType.File:
        return {"": FileStatus(info.size, info.mtime_ns or 0, is_regular=True)}
    if info.type == fs.FileType.NotFound:
        return {}
    found = _below(url)
    return {key: FileStatus(one.size, one.mtime_ns or 0, is_regular=True) for key, one in found.items()}


def send(path: Path, url: str) -> None:
    """Write a file as an object, whole or not at all.

    Raises:
        OSError: the store cannot be written.
    """

    def sent() -> None:
        with open(path, "rb") as source, store_of(url).open_output_stream(_place(url)) as stream:
            shutil.copyfileobj(source, stream, 8 << 20)

    _repeated(url, sent)


def send_bytes(content: bytes, url: str) -> None:
    """Write an object.

    Raises:
        OSError: the store cannot be written.
    """

    def sent() -> None:
        with store_of(url).open_output_stream(_place(url)) as stream:
            stream.write(content)

    _repeated(url, sent)


def remove(url: str) -> None:
    """Remove an object, if it is there.

    Raises:
        OSError: the store cannot be written.
    """

    def removed() -> None:
        try:
            store_of(url).delete_file(_place(url))
        except OSError:
            # pyarrow then makes an empty object for the folder, which some stores refuse.
            if _info(url).type != fs.FileType.NotFound:
                raise

    _repeated(url, removed)


def _repeated(url: str, request: Callable[[], None]) -> None:
    pause_secs = _FIRST_PAUSE_SECS
    for _ in range(ATTEMPTS - 1):
        try:
            return _named(url, request)
        except FileNotFoundError:
            raise
        except OSError:
            time.sleep(pause_secs)
            pause_secs *= 2
    return _named(url, request)


def is_object(url: str) -> bool:
    """Whether a URL is that of an object, and not of a prefix.

    Raises:
        OSError: there is neither.
    """
    info = _info(url)
    if info.type == fs.FileType.NotFound:
        raise FileNotFoundError(2, "no such object or prefix", url)
    return bool(info.type == fs.FileType.File)


def object_status(url: str) -> FileStatus:
    """The status of an object.

    Raises:
        OSError: it is missing, or cannot be read.
    """
    info = _info(url)
    if info.type != fs.FileType.File:
        raise FileNotFoundError(2, "no such object", url)
    return FileStatus(info.size, info.mtime_ns or 0, is_regular=True)


class ObjectFile(io.RawIOBase):
    """An object, open for reading. A read that fails is repeated a few times, at the same place.

    Raises:
        OSError: the object is missing, or cannot be read.
    """

    def __init__(self, url: str) -> None:
        self._url, self._offset = url, 0
        self._open()
        self._size = int(self._file.size())

    def _open(self) -> None:
        self._file: Any = _named(self._url, lambda: store_of(self._url).open_input_file(_place(self._url)))

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._offset

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position; nothing is requested."""
        self._offset = max(offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._offset, os.SEEK_END: self._size}[whence], 0)
        return self._offset

    def readinto(self, buffer: Any) -> int:
        """Read from the position into a buffer; returns the number of bytes, 0 at the end."""
        wanted = min(len(buffer), max(self._size - self._offset, 0))
        content = self._read(wanted) if wanted else b""
        buffer[: len(content)] = content
        self._offset += len(content)
        return len(content)

    def _read(self, wanted: int) -> bytes:
        pause_secs = _FIRST_PAUSE_SECS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                content: bytes = _named(self._url, lambda: self._file.read_at(wanted, self._offset))
                if len(content) == wanted:
                    return content
                problem = OSError(5, f"{len(content):,} of {wanted:,} bytes were sent", self._url)
            except OSError as error:
                problem = error
            if attempt < ATTEMPTS:
                time.sleep(pause_secs)
                pause_secs *= 2
                self._open()
        raise problem

    def close(self) -> None:
        """Close the object."""
        if not self.closed:
            self._file.close()
        super().close()


def _place(url: str) -> str:
    """Bucket and key."""
    return url.partition("://")[2]


def _info(url: str) -> Any:
    (info,) = _named(url, lambda: store_of(url).get_file_info([_place(url)]))
    return info


def _named(url: str, request: Callable[[], _T]) -> _T:
    """The result of a request; its errors have the URL and the store's own words, in one line."""
    try:
        return request()
    except (OSError, pa.ArrowException) as error:  # the second one from Azure's client
        if isinstance(getattr(error, "filename", None), str) and not is_url(error.filename):
            raise  # of a local file
        text = " ".join(str(getattr(error, "strerror", None) or error).split())
        text = (text.partition("AWS Error ")[2] or text)[:_MESSAGE_LENGTH]
        raise OSError(getattr(error, "errno", None) or 5, text, url) from error
