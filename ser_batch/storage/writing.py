"""Atomic writes, CSV and JSON, and one-line messages for OSErrors."""

import csv
import errno
import json
import os
import re
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ser_batch.errors import OutputError

# Temporary files that remain if the process is killed during a write.
PARTIAL = re.compile(r"\..+\.partial(\.\w+)?")

# Processes of several hosts that write into one folder may have one number, and containers also one host name.
_TOKEN = secrets.token_hex(4)

_open_partials: set[Path] = set()


def remove_partials() -> None:
    """Remove the temporary files of unfinished writes; called before the process exits."""
    for path in tuple(_open_partials):
        path.unlink(missing_ok=True)


@contextmanager
def open_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a file for an atomic write: it gets its final name after all content is on disk.

    Args:
        path: final path; its folder must exist.
        mode: ``w`` for UTF-8 text with ``\n`` line ends, ``wb`` for bytes.

    Raises:
        OSError: the file cannot be written; ``filename`` is set.
    """
    partial = path.with_name(f".{path.name}.{_TOKEN}-{os.getpid()}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    _open_partials.add(partial)
    try:
        with open(partial, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
        _open_partials.remove(partial)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Write the directory entries of a folder to disk (fsync), so that they survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_rows(file: IO[str], rows: Iterable[Sequence[str]]) -> None:
    r"""Append rows as CSV with ``\n`` line ends."""
    # csv.writer quotes a carriage return only if its line terminator has one.
    csv.writer(_PlainLineEnds(file), lineterminator="\r\n").writerows(rows)


class _PlainLineEnds:
    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, row: str) -> int:
        return self._file.write(row.removesuffix("\r\n") + "\n")


def write_json(path: Path, content: object) -> None:
    """Write ``content`` atomically as JSON with sorted keys, so that equal content gives equal bytes."""
    with open_atomically(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


# Advice for each error number.
_ADVICE = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space",
    errno.EACCES: "change its permissions",
    errno.EPERM: "change its permissions",
    errno.EROFS: "make the file system writable",
    errno.ENOENT: "check why it is missing",
    errno.EMFILE: "allow more open files (ulimit -n) or give fewer --workers",
    errno.ENFILE: "close other programs",
    errno.EIO: "check the disk",
}


def os_error_line(error: OSError, where: Path | str) -> str:
    """An OSError as one line: file, error, advice.

    Args:
        error: as raised.
        where: file or folder, used if the error has no ``filename``.
    """
    advice = _ADVICE.get(error.errno or 0, "fix the cause")
    return f"{error.filename or where}: {error.strerror or error}; {advice}, then run the same command again"


@contextmanager
def os_errors_named(where: Path | str) -> Iterator[None]:
    """Convert an OSError in the block to an OutputError with one line.

    Args:
        where: file or folder, used if the error has no ``filename``.

    Raises:
        OutputError: for any OSError in the block.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(os_error_line(error, where)) from error


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output as a binary file.

    Raises:
        OutputError: the reader closed the pipe, or the disk is full.
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # otherwise the final flush of the interpreter fails too
        if isinstance(error, BrokenPipeError):
            raise OutputError("standard output was closed before all rows were written") from error
        raise OutputError(f"standard output: cannot write ({error.strerror or error}); free disk space") from error
