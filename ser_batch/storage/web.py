"""Recordings on web servers, through requests; docs/recordings.md lists the environment variables."""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from functools import partial
from http import HTTPStatus
from typing import TypeVar

import requests
from pyarrow import fs

from ser_batch.storage.stores import ATTEMPTS, CONNECT_SECS, REQUEST_SECS

_T = TypeVar("_T")

_FIRST_PAUSE_SECS = 0.2
# The first request for a file gets this much of it.
_FIRST_BYTES = 1 << 20
# Of a server that sends whole files only: more than this is kept on disk.
_IN_MEMORY_BYTES = 8 << 20
_BUSY = (429, 500, 502, 503, 504)
_CONTENT_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")


class WebStore:
    """Files of web servers; the two methods of a pyarrow file system that reading needs.

    A signed URL often permits GET only, so there is no HEAD: a part of the file is requested.
    """

    def __init__(self, scheme: str) -> None:
        self._scheme = scheme
        self._session = requests.Session()

    def get_file_info(self, places: list[str]) -> list[fs.FileInfo]:
        """Size and time of files; the time is that of ``Last-Modified``.

        Args:
            places: URLs without the scheme.

        Raises:
            OSError: a server cannot be reached, or refuses.
        """
        return [self._file_info(place) for place in places]

    def _file_info(self, place: str) -> fs.FileInfo:
        def read(response: requests.Response) -> fs.FileInfo:
            size = _size(response)
            if size is None:
                size = sum(map(len, response.iter_content(_FIRST_BYTES)))
            return fs.FileInfo(place, fs.FileType.File, mtime=_time_of_change(response), size=size)

        try:
            return self.get(place, 0, 0, read)
        except FileNotFoundError:
            return fs.FileInfo(place, fs.FileType.NotFound)

    def open_input_file(self, place: str) -> WebFile:
        """Open a file for reading at any position.

        Raises:
            OSError: there is no such file, or the server cannot be reached, or refuses.
        """
        return WebFile(self, place)

    def get(self, place: str, first: int, last: int, read: Callable[[requests.Response], _T]) -> _T:
        """Request a part of a file, a few times if it fails.

        Args:
            place: URL without the scheme.
            first, last: positions of the first and the last byte.
            read: reads the reply, which may have the whole file; it is called again if the connection ends.

        Raises:
            OSError: there is no such file, or the server cannot be reached, or refuses, or stops.
        """
        pause_secs = _FIRST_PAUSE_SECS
        for _ in range(ATTEMPTS - 1):
            try:
                return self._get(place, first, last, read)
            except ConnectionError:
                time.sleep(pause_secs)
                pause_secs *= 2
        return self._get(place, first, last, read)

    def _get(self, place: str, first: int, last: int, read: Callable[[requests.Response], _T]) -> _T:
        """Request once; ConnectionError: another attempt may succeed."""
        url = f"{self._scheme}://{place}"
        headers = {"Range": f"bytes={first}-{last}", "Accept-Encoding": "identity"}
        timeout = (CONNECT_SECS, REQUEST_SECS)
        try:
            with self._session.get(url, headers=headers, timeout=timeout, stream=True) as response:
                status = response.status_code
                reply = f"the server replied HTTP {status} {response.reason}"
                if status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
                    raise FileNotFoundError(2, f"no such file (HTTP {status})", url)
                if status in _BUSY:
                    raise ConnectionError(5, reply, url)
                if not response.ok and status != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    raise OSError(5, reply, url)
                return read(response)
        except requests.RequestException as error:
            raise ConnectionError(5, _reason(error), url) from error


class WebFile:
    """A file of a web server, open for reading; the methods of a pyarrow file that `ObjectFile` uses."""

    def __init__(self, store: WebStore, place: str) -> None:
        self._store, self._place = store, place
        # Filled if the server sends whole files only.
        self._whole = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES)  # noqa: SIM115
        self._begin: bytes | None = None
        self._size = store.get(place, 0, _FIRST_BYTES - 1, self._read_begin)

    def _read_begin(self, response: requests.Response) -> int:
        """Keep what the server sends, and return the size of the file."""
        if response.status_code == HTTPStatus.OK:
            self._whole.seek(0)
            self._whole.truncate()
            for piece in response.iter_content(_FIRST_BYTES):
                self._whole.write(piece)
            return self._whole.tell()
        size = _size(response) or 0
        self._begin = response.content if size else b""
        return size

    def size(self) -> int:
        """In bytes."""
        return self._size

    def read_at(self, n_bytes: int, offset: int) -> bytes:
        """Read from a position.

        Raises:
            OSError: the server cannot be reached, or refuses, or stops.
        """
        if self._begin is None:
            self._whole.seek(offset)
            return self._whole.read(n_bytes)
        if offset + n_bytes <= len(self._begin):
            return self._begin[offset : offset + n_bytes]
        return self._store.get(self._place, offset, offset + n_bytes - 1, partial(_part, offset))

    def close(self) -> None:
        """Remove what is kept of the file."""
        self._whole.close()


def _size(response: requests.Response) -> int | None:
    """The size of the whole file in bytes; None: the server does not send it."""
    if response.status_code == HTTPStatus.OK:
        length = response.headers.get("Content-Length")
        return int(length) if length and length.isdecimal() else None
    if found := _CONTENT_RANGE.match(response.headers.get("Content-Range", "")):
        return int(found[2])
    if response.status_code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return 0
    raise OSError(5, "the server sends parts of the file, but not its size")


def _part(offset: int, response: requests.Response) -> bytes:
    """The content of a reply that has to begin at an offset."""
    found = _CONTENT_RANGE.match(response.headers.get("Content-Range", ""))
    if response.status_code != HTTPStatus.PARTIAL_CONTENT or found is None or found[1] != str(offset):
        raise OSError(5, "the server sent another part of the file than was requested")
    return bytes(response.content)


def _time_of_change(response: requests.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers["Last-Modified"])
    except (KeyError, ValueError):  # absent, or not a date
        return None


def _reason(error: requests.RequestException) -> str:
    """The cause of a failed request, without the address, which the URL has."""
    if isinstance(error, requests.Timeout):
        return f"no connection within {CONNECT_SECS} or no reply within {REQUEST_SECS} seconds"
    if isinstance(error, requests.exceptions.ChunkedEncodingError):
        return "the connection ended before the reply did"
    cause = getattr(error.args[0], "reason", error) if error.args else error
    return str(cause).rpartition("): ")[2]
