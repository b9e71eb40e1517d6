"""Locks that keep two runs out of one output."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ser_batch.errors import OutputError


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"{path}: another run is writing here; wait for it, or name another --out") from error


@contextmanager
def held(lock: Path, output: Path) -> Iterator[None]:
    """Keep other runs out of an output, by a lock on a file, until the block ends.

    Args:
        lock: the file; made if absent.
        output: what messages name.

    Raises:
        OutputError: another run holds it.
    """
    with open(lock, "ab") as file:
        _lock(file.fileno(), output)
        yield
