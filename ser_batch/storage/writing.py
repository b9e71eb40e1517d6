"""Atomic writes."""

import csv
import errno
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ser_batch.errors import OutputError

# What `open_atomically` and the savers of other formats leave behind when their process is killed.
PARTIAL = re.compile(r"\..+\.partial(\.\w+)?")

_open_partials: set[Path] = set()


def remove_partials() -> None:
    """Remove the files that this process is in the middle of writing, because it is about to end."""
    for path in tuple(_open_partials):
        path.unlink(missing_ok=True)


@contextmanager
def open_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a file that appears under its name only when it was written whole and reached the disk.

    Args:
        path: the final name. Its folder must exist.
        mode: ``w`` for UTF-8 text with ``\n`` line ends, ``wb`` for bytes.

    Raises:
        OSError: it cannot be written; it names the file.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_rows(file: IO[str], rows: Iterable[Sequence[str]]) -> None:
    r"""Append rows as CSV, each ended by ``\n``."""
    # The writer quotes a carriage return only where it ends lines with one.
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


# By error number: what to do.
_ADVICE = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EACCES: "change its rights",
    errno.EPERM: "change its rights",
    errno.EROFS: "make its disk writable",
    errno.ENOENT: "see why it is missing",
    errno.EMFILE: "allow more open files (ulimit -n) or give fewer --workers",
    errno.ENFILE: "close other programs",
    errno.EIO: "check the disk",
}


def os_error_line(error: OSError, where: Path | str) -> str:
    """An error of the system in one line: which file, what failed, what to do.

    Args:
        error: as it was raised.
        where: the file or folder that is named if the error names none.
    """
    advice = _ADVICE.get(error.errno or 0, "mend that")
    return f"{error.filename or where}: {error.strerror or error}; {advice}, then run the same command again"


@contextmanager
def os_errors_named(where: Path | str) -> Iterator[None]:
    """Turn an error of the system into one line that names the file.

    Args:
        where: what is named if the error names no file.

    Raises:
        OutputError: for any OSError in the block.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(os_error_line(error, where)) from error


@contextmanager
def standard_output() -> Iterator[IO[bytes]]:
    """Standard output, for rows.

    Raises:
        OutputError: whoever reads it closed it, or it is a file on a full disk.
    """
    try:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter's last flush fails, too
        if isinstance(error, BrokenPipeError):
            raise OutputError("standard output was closed before all was written") from error
        raise OutputError(f"standard output: cannot write ({error.strerror or error}); make room") from error
