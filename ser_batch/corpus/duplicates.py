"""Which recordings hold the same audio: it must not stand in two splits under two names."""

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.table import Recordings, Rows, first_equal, ordered
from ser_batch.errors import AudioError
from ser_batch.formatting import pluralize
from ser_batch.runtime.engine import Engine
from ser_batch.storage.fingerprints import audio_sha256

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
        twins: for each recording the number of the first one that is in a file of the same bytes ``(n,)``.
    """

    files: Rows
    twins: Rows

    @property
    def copies(self) -> Rows:
        """The first recording of every file that repeats an earlier one."""
        numbers = np.arange(len(self.files))
        return np.flatnonzero((self.files == numbers) & (self.twins != numbers))


def find_duplicates(recordings: Recordings, engine: Engine) -> SameAudio:
    """Compare the bytes of all files.

    Only files of one size are read: their beginnings, and what is longer as a whole where those agree too. A
    file that cannot be read repeats none.

    Args:
        recordings: in SOURCE's order.
        engine: where files are read.
    """
    files = recordings.first_of_file()
    rows = np.flatnonzero(files == np.arange(len(files)))
    sizes = np.fromiter((_size(recording.path) for recording in recordings.take(rows)), np.uint64, len(rows))
    is_suspect = _shared(sizes)
    rows, goes_on = rows[is_suspect], sizes[is_suspect] > _HEAD_BYTES
    keys = _keys(recordings.take(rows), _head, engine)
    goes_on &= _shared(keys)
    keys[goes_on] = _keys(recordings.take(rows[goes_on]), _content, engine)
    rows, keys = rows[keys != _NO_KEY], keys[keys != _NO_KEY]
    twins = files.copy()
    twins[rows] = rows[first_equal(keys)]
    return SameAudio(files, twins[files])


def duplicate_warnings(recordings: Recordings, same: SameAudio) -> list[str]:
    """What a user should know of them, a line each."""
    copies = same.copies
    if not len(copies):
        return []
    copy, first = recordings[copies[0]], recordings[same.twins[copies[0]]]
    lines = [f"same bytes as another: {pluralize(len(copies), 'file')} ({copy.file} as {first.file})"]
    _, splits = recordings.column("split")
    apart = copies[splits[copies] != splits[same.twins[copies]]]
    if len(apart):
        mine, other = recordings[apart[0]], recordings[same.twins[apart[0]]]
        lines.append(
            f"{len(apart)} of them have another split than their twin, as it was given ({mine.file}: "
            f"{mine.split}, {other.file}: {other.split}); train leaves out what validation or test has too"
        )
    else:
        lines[0] += "; each such pair stays in one split"
    _, labels = recordings.column("label")
    torn = copies[labels[copies] != labels[same.twins[copies]]]
    if len(torn):
        mine, other = recordings[torn[0]], recordings[same.twins[torn[0]]]
        lines.append(
            f"{len(torn)} of them have another label than their twin ({mine.file}: {mine.label}, "
            f"{other.file}: {other.label})"
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


def _keys(recordings: Recordings, key: Callable[[str], bytes], engine: Engine) -> Keys:
    """The key of each file ``(n,)``."""
    keys = np.full(len(recordings), _NO_KEY, np.uint64)
    tasks = ((at, recordings[at : at + _FILES_PER_TASK]) for at in range(0, len(recordings), _FILES_PER_TASK))
    for outcome in engine.map(partial(_keys_of_part, key=key), tasks):
        if outcome.result is not None:
            at, part = outcome.task
            keys[at : at + len(part)] = outcome.result
    return keys


def _keys_of_part(task: tuple[int, Recordings], key: Callable[[str], bytes]) -> Keys:
    keys = []
    for recording in task[1]:
        try:
            keys.append(int.from_bytes(key(recording.path)[:8], "big"))
        except (OSError, AudioError):  # the build itself says so
            keys.append(_NO_KEY)
    return np.array(keys, np.uint64)


def _head(path: str) -> bytes:
    with open(path, "rb") as file:
        size = os.stat(file.fileno()).st_size
        return hashlib.sha256(b"%d\0" % size + file.read(_HEAD_BYTES)).digest()


def _content(path: str) -> bytes:
    return bytes.fromhex(audio_sha256(path))
