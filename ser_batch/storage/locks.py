"""Output locking: one run per output."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ser_batch.errors import OutputError


@contextmanager
def locked(lock: Path, output: Path) -> Iterator[None]:
    """Lock an output until the block or the process ends.

    Args:
        lock: the lock file; created if absent, not deleted. (A lock on a folder would not work across hosts of a
            network file system.)
        output: for messages.

    Raises:
        OutputError: another run holds the lock.
        OSError: the lock file cannot be created.
    """
    held = FileLock(lock, blocking=False)
    try:
        held.acquire()
    except Timeout as error:
        raise OutputError(f"{output}: another run is writing here; wait for it, or choose another --out") from error
    except NotImplementedError as error:
        raise OutputError(
            f"{output}: this file system does not support locks; choose an --out on another one"
        ) from error
    try:
        yield
    finally:
        held.release()
