"""Outputs that are made part by part, so that a run which was killed continues: folders, and tables with their parts.

All of them work alike. A lock keeps other runs out. ``identity.json`` is written before anything else and holds what
the output is made from; a run with another identity is refused and told what differs. Parts appear whole or not at
all. One file is written last: where it is there, the output is finished, and the folder of parts goes.
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

# What an output is made from: JSON values.
Identity = dict[str, Any]


@dataclass(frozen=True)
class OutputKind:
    """One command's output folders.

    Attributes:
        what: what they hold, for messages: ``records``, ``a model bundle``, ``an evaluation``.
        complete: the file that is written last; without it the rest is unfinished.
        parts: the folder of unfinished work.
        is_ours: whether the command makes an entry of this name.
        identity_of: what a finished folder was made from.
    """

    what: str
    complete: str
    parts: str
    is_ours: Callable[[str], bool]
    identity_of: Callable[[Path], Identity]


@dataclass(frozen=True)
class ResumableOutput:
    """An output folder that this run alone writes: see `open_output`.

    Attributes:
        path: where it is.
        parts: the folder of unfinished work; it is there until `finish`.
        is_finished: an earlier run finished it.
    """

    path: Path
    parts: Path
    is_finished: bool

    def finish(self) -> None:
        """Remove the folder of parts, once the file that is written last is on disk."""
        shutil.rmtree(self.parts, ignore_errors=True)


@contextmanager
def open_output(
    path: Path,
    kind: OutputKind,
    identity: Identity,
    restart: bool = False,
    changes: Callable[[Identity], list[str]] | None = None,
) -> Iterator[ResumableOutput]:
    """Open an output folder: new, unfinished by a run of the same identity, or finished by one.

    Args:
        path: the folder; made if absent.
        kind: of which command.
        identity: what it is made from.
        restart: throw away what an earlier run left in it.
        changes: what differs from an earlier run's identity, a phrase each; None: the `differences` of all values.

    Raises:
        OutputError: another run writes here; it holds other files, or was made from something else; it cannot be
            written; also from inside the block, for errors of the system with a file in it.
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
            f"{path}: holds files that are not part of {kind.what} ({', '.join(odd[:3])}); "
            "nothing was changed: move them, or name another --out"
        )


def _check_identity(path: Path, kind: OutputKind, changed: list[str]) -> None:
    if changed:
        raise OutputError(
            f"{path}: holds {kind.what} made from something else; what differs: {'; '.join(changed)}. "
            "Give --restart to make it anew, or name another --out"
        )


def _clear(path: Path, kind: OutputKind) -> None:
    (path / kind.complete).unlink(missing_ok=True)  # first the file that marks the rest as whole
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink()


def drop_partials(path: Path) -> None:
    """Remove what a killed run was in the middle of writing into a folder."""
    for entry in path.rglob(".*"):
        if PARTIAL.fullmatch(entry.name):
            entry.unlink(missing_ok=True)


def _is_begun(path: Path, kind: OutputKind) -> bool:
    """Whether a run with a known identity left anything that would be lost by beginning anew."""
    parts = path / kind.parts
    others = (entry for entry in path.iterdir() if entry.name not in {LOCK, kind.parts})
    files = (entry for entry in parts.rglob("*") if entry.is_file() and entry.name != IDENTITY)
    return (parts / IDENTITY).exists() and any(True for _ in chain(others, files))


def _begin(path: Path, kind: OutputKind, identity: Identity) -> None:
    if left := sorted(entry.name for entry in path.iterdir() if entry.name not in {LOCK, kind.parts}):
        raise OutputError(
            f"{path}: holds parts of {kind.what} without their {kind.complete} ({', '.join(left[:3])}); "
            "give --restart to throw them away, or name another --out"
        )
    shutil.rmtree(path / kind.parts, ignore_errors=True)
    (path / kind.parts).mkdir()
    write_json(path / kind.parts / IDENTITY, identity)


def read_own_json(path: Path) -> dict[str, Any]:
    """The JSON object that an earlier run of the same command wrote into its output.

    Raises:
        OutputError: it is damaged.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise OutputError(f"{path}: is damaged ({error}); give --restart to make the output anew") from error
    if not isinstance(content, dict):
        raise OutputError(f"{path}: is damaged (no JSON object); give --restart to make the output anew")
    return content


def differences(old: Mapping[str, Any], new: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """The settings among ``names`` whose values differ, each as ``name was OLD, now NEW``; objects, value by value."""
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
