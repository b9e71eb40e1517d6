"""Detection of files with the same content, which must not be in different splits."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import compress

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.corpus.table import Recording, Rows, first_equal, first_of_file, ordered, paths, recordings, selected
from ser_batch.errors import AudioError
from ser_batch.formatting import pluralize
from ser_batch.runtime.engine import Engine
from ser_batch.storage.filesystems import file_status, open_raw
from ser_batch.storage.fingerprints import audio_sha256
from ser_batch.storage.tables import codes

_HEAD_BYTES = 1 << 17
_FILES_PER_TASK = 200

# The first 64 bits of digests: among ten million different files, two have the same key once in 400,000 sets. Such a
# pair would be put in one split without need.
Keys = NDArray[np.uint64]
_NO_KEY = 0  # for empty or unreadable files


@dataclass(frozen=True)
class Duplicates:
    """Recordings grouped by file, and by content of the file.

    Attributes:
        files: for each recording the number of the first recording in the same file ``(n,)``.
        duplicate_of: for each recording the number of the first recording in a file with the same bytes ``(n,)``.
    """

    files: Rows
    duplicate_of: Rows

    @property
    def copies(self) -> Rows:
        """The first recording of every file that is a copy of an earlier file."""
        numbers = np.arange(len(self.files))
        return np.flatnonzero((self.files == numbers) & (self.duplicate_of != numbers))


def find_duplicates(table: pa.Table, engine: Engine) -> Duplicates:
    """Find files with the same bytes.

    Only files of equal size are read: first the beginning, and if the beginnings are equal, the whole file. An
    unreadable file counts as different from all others.

    Args:
        table: recordings in SOURCE's order.
        engine: runs the tasks that read files.
    """
    files = first_of_file(table)
    is_first = files == np.arange(len(files))
    rows = np.flatnonzero(is_first)
    sizes = np.fromiter(map(_size, compress(paths(table), is_first)), np.uint64, len(rows))
    is_suspect = _has_duplicate(sizes)
    rows, goes_on = rows[is_suspect], sizes[is_suspect] > _HEAD_BYTES
    keys = _keys(selected(table, rows), _head, engine)
    goes_on &= _has_duplicate(keys)
    keys[goes_on] = _keys(selected(table, rows[goes_on]), _content, engine)
    rows, keys = rows[keys != _NO_KEY], keys[keys != _NO_KEY]
    duplicate_of = files.copy()
    duplicate_of[rows] = rows[first_equal(keys)]
    return Duplicates(files, duplicate_of[files])


def duplicate_warnings(table: pa.Table, same: Duplicates) -> list[str]:
    """Warnings about files with the same bytes, one line each."""
    copies = same.copies
    if not len(copies):
        return []

    def first_pair(numbers: Rows) -> list[Recording]:
        return list(recordings(selected(table, np.array([numbers[0], same.duplicate_of[numbers[0]]]))))

    def differing(column: str) -> Rows:
        _, values = codes(table, column)
        differs: NDArray[np.bool_] = values[copies] != values[same.duplicate_of[copies]]
        return copies[differs]

    copy, first = first_pair(copies)
    lines = [f"same bytes as another: {pluralize(len(copies), 'file')} ({copy.file} as {first.file})"]
    if len(apart := differing("split")):
        copy, first = first_pair(apart)
        lines.append(
            f"copies with a different given split: {len(apart)} ({copy.file}: {copy.split}, "
            f"{first.file}: {first.split}); train excludes audio that is also in validation or test"
        )
    else:
        lines[0] += "; copies are in the same split"
    if len(conflicting := differing("label")):
        copy, first = first_pair(conflicting)
        lines.append(
            f"copies with a different label: {len(conflicting)} ({copy.file}: {copy.label}, "
            f"{first.file}: {first.label})"
        )
    return lines


def _size(path: str) -> int:
    try:
        status = file_status(path)
    except (OSError, ValueError):
        return 0
    return status.size if status.is_regular else 0


def _has_duplicate(keys: Keys) -> NDArray[np.bool_]:
    """Whether another element has the same key, bool ``(n,)``."""
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
    with open_raw(path) as file:
        return hashlib.sha256(b"%d\0" % file_status(path).size + (file.read(_HEAD_BYTES) or b"")).digest()


def _content(path: str) -> bytes:
    return bytes.fromhex(audio_sha256(path))
