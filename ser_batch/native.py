"""What native libraries do beside their work: what they print, and what they do with memory."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ser_batch.stops import tidied

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> None:
    """Let this process reuse the memory it frees, where the C library is glibc.

    By default every array of more than a few hundred KB is mapped anew and given back, and each time the
    system clears its pages. Training and feature extraction make the same arrays over and over.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 16 << 20)


def silence_native_code() -> None:
    """Let nothing of what this process prints be seen, for good: rows and reasons are its parent's to print."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


@contextmanager
def native_code_silenced() -> Iterator[None]:
    """Let nothing be seen of what is printed to standard error in the body of the ``with`` block."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with tidied(lambda: os.dup2(stderr, 2)):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)
