"""Resumable outputs: they are written part by part, and a killed run continues.

A lock excludes other runs. ``identity.json`` is written first; it has the inputs and settings of the output, and a run
with another identity is refused with the differences. Parts are written atomically. One file is written last; it marks
the output as finished, and then the folder of parts is removed.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ser_batch.errors import OutputError
from ser_batch.storage.locks import locked
from ser_batch.storage.writing import PARTIAL, os_errors_named, write_json

IDENTITY = "identity.json"
LOCK = ".lock"

# Inputs and settings of an output: JSON values.
Identity = dict[str, Any]


@dataclass(frozen=True)
class OutputKind:
    """Properties of the output folders of one command.

    Attributes:
        what: the content, for messages: ``records``, ``a model bundle``, ``an evaluation``.
        complete: the file that is written last and marks the folder as finished.
        parts: the subfolder for unfinished work.
        is_ours: whether an entry of this name belongs to the output.
        identity_of: the identity of a finished folder.
    """

    what: str
    complete: str
    parts: str
    is_ours: Callable[[str], bool]
    identity_of: Callable[[Path], Identity]


@dataclass(frozen=True)
class ResumableOutput:
    """An output folder, locked by this run: see `open_output`.

    Attributes:
        path: of the folder.
        parts: the subfolder for unfinished work; it exists until `finish`.
        is_finished: whether an earlier run finished the output.
    """

    path: Path
    parts: Path
    is_finished: bool

    def finish(self) -> None:
        """Remove unfinished work. Call it after writing the file that marks the output as finished.

        Partial files may be there, too: of tasks whose node was lost, and which ran again on another one.
        """
        shutil.rmtree(self.parts, ignore_errors=True)
        drop_partials(self.path)


@contextmanager
def open_output(
    path: Path,
    kind: OutputKind,
    identity: Identity,
    restart: bool = False,
    changes: Callable[[Identity], list[str]] | None = None,
) -> Iterator[ResumableOutput]:
    """Open and lock an output folder: a new one, or one that a run with the same identity started or finished.

    Args:
        path: the folder; created if absent.
        kind: of the output.
        identity: inputs and settings of this run.
        restart: discard the results of an earlier run.
        changes: takes the identity of an earlier run, returns the differences as phrases; None: `differences`.

    Raises:
        OutputError: another run is writing here; the folder contains foreign files, or has another identity; it cannot
            be written. Any OSError inside the block also becomes an OutputError.
    """
    changes = changes or (lambda old: differences(old, identity, identity))
    parts = path / kind.parts
    with os_errors_named(path):
        path.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(path, kind)
        with locked(path / LOCK, path):
            if restart:
                _clear(path, kind)
            drop_partials(path)
            is_finished = (path / kind.complete).exists()
            if is_finished:
                _check_identity(path, kind, changes(kind.identity_of(path)))
                shutil.rmtree(parts, ignore_errors=True)
            elif _is_begun(path, kind):
                _check_identity(path, kind, changes(read_own_json(parts / IDENTITY)))
            else:
                _begin(path, kind, identity)
            yield ResumableOutput(path, parts, is_finished)


def _refuse_foreign(path: Path, kind: OutputKind) -> None:
    names = sorted(entry.name for entry in path.iterdir())
    if odd := [n for n in names if n not in {LOCK, kind.parts} and not kind.is_ours(n) and not PARTIAL.fullmatch(n)]:
        raise OutputError(
            f"{path}: contains files that are not part of {kind.what} ({', '.join(odd[:3])}); "
            "nothing was changed: move them, or choose another --out"
        )


def _check_identity(path: Path, kind: OutputKind, changed: list[str]) -> None:
    if changed:
        raise OutputError(
            f"{path}: holds {kind.what} made from other inputs or settings; differences: {'; '.join(changed)}. "
            "Give --restart to make it again, or choose another --out"
        )


def _clear(path: Path, kind: OutputKind) -> None:
    (path / kind.complete).unlink(missing_ok=True)  # first the file that marks the output as finished
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def drop_partials(path: Path) -> None:
    """Remove the partial files that a killed run left in a folder."""
    for entry in path.rglob(".*"):
        if PARTIAL.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _is_begun(path: Path, kind: OutputKind) -> bool:
    """Whether an earlier run left an identity and results that a new start would lose."""
    parts = path / kind.parts
    others = (entry for entry in path.iterdir() if entry.name not in {LOCK, kind.parts})
    files = (entry for entry in parts.rglob("*") if entry.is_file() and entry.name != IDENTITY)
    return (parts / IDENTITY).exists() and any(True for _ in chain(others, files))


def _begin(path: Path, kind: OutputKind, identity: Identity) -> None:
    if left := sorted(entry.name for entry in path.iterdir() if entry.name not in {LOCK, kind.parts}):
        raise OutputError(
            f"{path}: contains parts of {kind.what} without {kind.complete} ({', '.join(left[:3])}); "
            "give --restart to delete them, or choose another --out"
        )
    shutil.rmtree(path / kind.parts, ignore_errors=True)
    (path / kind.parts).mkdir()
    write_json(path / kind.parts / IDENTITY, identity)


def read_own_json(path: Path) -> dict[str, Any]:
    """Read a JSON object that an earlier run of the same command wrote.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: is damaged ({error}); give --restart to make the output again") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is damaged (no JSON object); give --restart to make the output again")
    return content


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings in ``names`` whose values differ, as ``name was OLD, now NEW``; nested objects by value."""
    changed = []
    for name in names:
        before, now = dict(_values(name, old.get(name))), dict(_values(name, new.get(name)))
        changed += [
            f"{key.replace('_', ' ')} was {_shown(before.get(key))}, now {_shown(now.get(key))}"
            for key in sorted(before.keys() | now.keys())
            if before.get(key) != now.get(key)
        ]
    return changed


def _values(name: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key in value:
            yield from _values(f"{name} {key}", value[key])
    else:
        yield name, value


_FINGERPRINT = re.compile("[0-9a-f]{64}")


def _shown(value: object) -> str:
    if isinstance(value, str) and _FINGERPRINT.fullmatch(value):
        value = value[:12]
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 70 else text[:67] + "…"
