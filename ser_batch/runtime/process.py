"""Process set-up: allocator, stderr and temporary files of native libraries."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ser_batch.errors import OutputError
from ser_batch.runtime.signals import cleanup_on_signal

# glibc's mallopt parameters (malloc.h).
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> None:
    """Let this process reuse the memory it frees, where the C library is glibc.

    By default, arrays of more than a few hundred KB are mapped and unmapped, and the system clears their pages each
    time; training and feature extraction allocate such arrays repeatedly. Also, each thread keeps its freed memory, so
    memory use grows for hours when threads pass arrays to each other. Two pools for all threads avoid that.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1)
    mallopt(_M_TOP_PAD, 16 << 20)
    mallopt(_M_ARENA_MAX, 2)


def silence_native_code() -> None:
    """Redirect stdout and stderr of this worker to /dev/null."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


@contextmanager
def native_code_silenced() -> Iterator[None]:
    """Redirect stderr to /dev/null in the body of the ``with`` block."""
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        with cleanup_on_signal(lambda: os.dup2(stderr, 2)):
            yield
    finally:
        os.dup2(stderr, 2)
        os.close(nowhere)
        os.close(stderr)


@contextmanager
def temporary_files_removed() -> Iterator[None]:
    """Remove the temporary files that are made through `tempfile` in the ``with`` block, at its end."""
    before = tempfile.tempdir
    try:
        made = tempfile.TemporaryDirectory()
    except OSError as error:
        raise OutputError(f"no temporary folder can be made ({error.strerror}); set TMPDIR to a folder") from error
    with made as folder:
        tempfile.tempdir = folder
        try:
            with cleanup_on_signal(lambda: shutil.rmtree(folder)):
                yield
        finally:
            tempfile.tempdir = before


def prepare_tensorflow(verbose: bool) -> None:
    """Set up this process for TensorFlow, before that is imported."""
    keep_freed_memory()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if not verbose:
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="keras")
        if sys.version_info >= (3, 13):  # this TensorFlow prints during its import, whatever the level
            with native_code_silenced():
                import tensorflow  # noqa: F401
