"""Atomic writes."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ser_batch.errors import OutputError
from ser_batch.runtime.signals import cleanup_on_signal


@contextmanager
def open_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a file that appears under its name only when it was written whole and reached the disk.

    Args:
        path: the final name. Its folder must exist.
        mode: ``w`` for UTF-8 text with ``\n`` line ends, ``wb`` for bytes.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with cleanup_on_signal(lambda: partial.unlink(missing_ok=True)):
        try:
            with open(partial, mode, **text) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
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


@contextmanager
def disk_errors_named(where: Path) -> Iterator[None]:
    """Turn an OSError of the system (disk full, rights, quota) into one line that names the place.

    Raises:
        OutputError: for any OSError in the block.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise OutputError(
            f"{error.filename or where}: is missing; give --restart to make the whole output anew"
        ) from error
    except OSError as error:
        raise OutputError(
            f"{where}: cannot write ({error.strerror or error}); what was finished is kept: "
            "make room or change the rights, then run the same command again"
        ) from error


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
