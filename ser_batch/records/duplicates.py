"""Which files hold the same bytes: one recording under two names must not stand in two splits."""

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import partial

from ser_batch.audio.recordings import Recording, audio_sha256
from ser_batch.errors import AudioError
from ser_batch.tasks import Engine

_HEAD_BYTES = 1 << 16
_FILES_PER_TASK = 200


def find_duplicates(recordings: Sequence[Recording], engine: Engine) -> dict[str, str]:
    """The path of every file that repeats an earlier one, with that one's path.

    Only files of one size are read, first their beginnings, then as a whole where those agree too. A file
    that cannot be read repeats none.

    Args:
        recordings: in SOURCE's order.
        engine: where files are read.
    """
    paths = list(dict.fromkeys(recording.path for recording in recordings))
    suspects = _sharing(paths, {path: size for path in paths if (size := _size(path))})
    suspects = _sharing(suspects, _keys(suspects, _head, engine))
    contents = _keys(suspects, audio_sha256, engine)
    first_with: dict[Hashable, str] = {}
    duplicates = {}
    for path in suspects:
        if path in contents:
            first = first_with.setdefault(contents[path], path)
            if first != path:
                duplicates[path] = first
    return duplicates


def duplicate_warnings(recordings: Sequence[Recording], duplicates: Mapping[str, str]) -> list[str]:
    """What a user should know of them, a line each."""
    if not duplicates:
        return []
    by_path = {recording.path: recording for recording in recordings}
    path, first = next(iter(duplicates.items()))
    lines = [
        f"{len(duplicates)} files hold the same bytes as another ({by_path[path].file} as {by_path[first].file}); "
        "each such pair stays in one split"
    ]
    torn = [p for p, f in duplicates.items() if by_path[p].label != by_path[f].label]
    if torn:
        other = by_path[duplicates[torn[0]]]
        mine = by_path[torn[0]]
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


def _sharing(paths: Sequence[str], keys: Mapping[str, Hashable]) -> list[str]:
    """The paths whose key another path has too."""
    counts = Counter(keys.values())
    return [path for path in paths if path in keys and counts[keys[path]] > 1]


def _keys(paths: Sequence[str], key: Callable[[str], Hashable], engine: Engine) -> dict[str, Hashable]:
    tasks = [paths[at : at + _FILES_PER_TASK] for at in range(0, len(paths), _FILES_PER_TASK)]
    keys: dict[str, Hashable] = {}
    for outcome in engine.map(partial(_keys_of_part, key=key), tasks):
        keys.update(outcome.result or {})
    return keys


def _keys_of_part(paths: Sequence[str], key: Callable[[str], Hashable]) -> dict[str, Hashable]:
    keys = {}
    for path in paths:
        try:
            keys[path] = key(path)
        except (OSError, AudioError):  # the build itself says so
            continue
    return keys


def _head(path: str) -> tuple[int, str]:
    with open(path, "rb") as file:
        return os.stat(file.fileno()).st_size, hashlib.sha256(file.read(_HEAD_BYTES)).hexdigest()
