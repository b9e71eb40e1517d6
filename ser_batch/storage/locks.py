"""Locks that keep two runs out of one output."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ser_batch.errors import OutputError


@contextmanager
def locked(lock: Path, output: Path) -> Iterator[None]:
    """Keep other runs out of an output until the block ends, or the process does.

    Args:
        lock: a file for nothing else, made if absent; it stays. A lock on a folder would not hold across the hosts of
            a network file system.
        output: what messages name.

    Raises:
        OutputError: another run holds the lock.
        OSError: the file cannot be made.
    """
    held = FileLock(lock, blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise OutputError(f"{output}: another run is writing here; wait for it, or name another --out") from error
    except NotImplementedError as error:
        raise OutputError(f"{output}: this file system has no locks; name an --out on another") from error
    try:
        yield
    finally:
        held.release()
