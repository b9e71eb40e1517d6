"""Which recordings hold the same audio: it must not stand in two splits under two names."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.corpus.table import Recording, Rows, first_equal, first_of_file, ordered, paths, recordings
from ser_batch.errors import AudioError
from ser_batch.formatting import pluralize
from ser_batch.runtime.engine import Engine
from ser_batch.storage.fingerprints import audio_sha256
from ser_batch.storage.tables import codes

_HEAD_BYTES = 1 << 17
_FILES_PER_TASK = 200

# The beginnings of digests: two of ten million different files share theirs once in 400,000 sets, and then stand
# in one split for nothing.
Keys = NDArray[np.uint64]
_NO_KEY = 0  # what is empty, or cannot be read


@dataclass(frozen=True)
class SameAudio:
    """Which recordings are parts of one file, and which files hold the same bytes.

    Attributes:
        files: for each recording the number of the first one that is in the same file ``(n,)``.
        duplicate_of: for each recording the number of the first one that is in a file of the same bytes ``(n,)``.
    """

    files: Rows
    duplicate_of: Rows

    @property
    def copies(self) -> Rows:
        """The first recording of every file that repeats an earlier one."""
        numbers = np.arange(len(self.files))
        return np.flatnonzero((self.files == numbers) & (self.duplicate_of != numbers))


def find_duplicates(table: pa.Table, engine: Engine) -> SameAudio:
    """Compare the bytes of all files.

    Only files of one size are read: their beginnings, and what is longer as a whole where those agree too. A
    file that cannot be read repeats none.

    Args:
        table: recordings in SOURCE's order.
        engine: where files are read.
    """
    files = first_of_file(table)
    rows = np.flatnonzero(files == np.arange(len(files)))
    sizes = np.fromiter(map(_size, paths(table.take(rows))), np.uint64, len(rows))
    is_suspect = _shared(sizes)
    rows, goes_on = rows[is_suspect], sizes[is_suspect] > _HEAD_BYTES
    keys = _keys(table.take(rows), _head, engine)
    goes_on &= _shared(keys)
    keys[goes_on] = _keys(table.take(rows[goes_on]), _content, engine)
    rows, keys = rows[keys != _NO_KEY], keys[keys != _NO_KEY]
    duplicate_of = files.copy()
    duplicate_of[rows] = rows[first_equal(keys)]
    return SameAudio(files, duplicate_of[files])


def duplicate_warnings(table: pa.Table, same: SameAudio) -> list[str]:
    """Warnings about files that hold the same bytes, a line each."""
    copies = same.copies
    if not len(copies):
        return []

    def first_pair(numbers: Rows) -> list[Recording]:
        return list(recordings(table.take(np.array([numbers[0], same.duplicate_of[numbers[0]]]))))

    def differing(column: str) -> Rows:
        _, values = codes(table, column)
        differs: NDArray[np.bool_] = values[copies] != values[same.duplicate_of[copies]]
        return copies[differs]

    copy, first = first_pair(copies)
    lines = [f"same bytes as another: {pluralize(len(copies), 'file')} ({copy.file} as {first.file})"]
    if len(apart := differing("split")):
        copy, first = first_pair(apart)
        lines.append(
            f"{len(apart)} of them have another split than the file that they copy, as it was given ({copy.file}: "
            f"{copy.split}, {first.file}: {first.split}); train leaves out what validation or test has too"
        )
    else:
        lines[0] += "; each such pair stays in one split"
    if len(conflicting := differing("label")):
        copy, first = first_pair(conflicting)
        lines.append(
            f"{len(conflicting)} of them have another label than the file that they copy ({copy.file}: {copy.label}, "
            f"{first.file}: {first.label})"
        )
    return lines


def _size(path: str) -> int:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def _shared(keys: Keys) -> NDArray[np.bool_]:
    """Whether another has the same key."""
    order, is_new = ordered(keys)
    is_shared = np.empty(len(keys), np.bool_)
    is_shared[order] = ~is_new | ~np.append(is_new[1:], True)
    is_shared &= keys != _NO_KEY
    return is_shared


def _keys(table: pa.Table, key: Callable[[str], bytes], engine: Engine) -> Keys:
    """The key of each file ``(n,)``."""
    keys = np.full(len(table), _NO_KEY, np.uint64)
    starts = range(0, len(table), _FILES_PER_TASK)
    tasks = ((at, list(paths(table.slice(at, _FILES_PER_TASK)))) for at in starts)
    for outcome in engine.map(partial(_keys_of_files, key=key), tasks):
        if outcome.result is not None:
            at = outcome.task[0]
            keys[at : at + len(outcome.result)] = outcome.result
    return keys


def _keys_of_files(task: tuple[int, list[str]], key: Callable[[str], bytes]) -> Keys:
    keys = []
    for path in task[1]:
        try:
            keys.append(int.from_bytes(key(path)[:8], "big"))
        except (OSError, AudioError):  # the build itself reports it
            keys.append(_NO_KEY)
    return np.array(keys, np.uint64)


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        size = os.stat(file.fileno()).st_size
        return hashlib.sha256(b"%d\0" % size + file.read(_HEAD_BYTES)).digest()


def _content(path: str) -> bytes:
    return bytes.fromhex(audio_sha256(path))
