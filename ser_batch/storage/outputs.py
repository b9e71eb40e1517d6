"""Output folders of one command, and what differs between two runs."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ser_batch.errors import OutputError
from ser_batch.storage.locks import _lock


def read_own_json(path: Path) -> dict[str, Any]:
    """What an earlier run of the same command noted in its output.

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


# What `open_atomically` and the savers of other formats leave behind when their process is killed.
_PARTIAL = re.compile(r"\..+\.partial(\.\w+)?")


@dataclass(frozen=True)
class OutputFolder:
    """An output folder of one command; foreign files are refused.

    Attributes:
        path: where it is.
        what: what it holds, for messages: ``records``, ``a model bundle``, ``an evaluation``.
        complete: the file that is written last; without it the rest is unfinished.
        is_ours: whether the command makes an entry of this name.
    """

    path: Path
    what: str
    complete: str
    is_ours: Callable[[str], bool]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder if it is absent and keep other runs out of it until the block ends.

        The lock is on the folder itself, so it leaves no file behind and ends with its process.

        Raises:
            OutputError: it cannot be made or written, or another run holds it.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot make this folder ({error.strerror}); name another with --out"
            ) from error
        try:
            _lock(descriptor, self.path)
            if not os.access(self.path, os.W_OK | os.X_OK):
                raise OutputError(f"{self.path}: not writable by this user; change its rights, or name another --out")
            yield
        finally:
            os.close(descriptor)

    def refuse_foreign(self) -> None:
        """See that nothing else is in the folder.

        Raises:
            OutputError: there is.
        """
        names = sorted(entry.name for entry in self.path.iterdir())
        if odd := [name for name in names if not self.is_ours(name) and not _PARTIAL.fullmatch(name)]:
            raise OutputError(
                f"{self.path}: holds files that are not part of {self.what} ({', '.join(odd[:3])}); "
                "nothing was changed: move them, or name another --out"
            )

    def clear(self) -> None:
        """Throw away what earlier runs left, finished or not.

        Raises:
            OutputError: something else is in the folder too; then nothing is thrown away.
        """
        self.refuse_foreign()
        (self.path / self.complete).unlink(missing_ok=True)  # first what says that the rest is whole
        for entry in self.path.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()

    def begin(self, scratch: str) -> Path:
        """Make the folder of unfinished work, where none of its plan was written down yet.

        Raises:
            OutputError: something else is in the folder, or parts of an output whose plan is not known.
        """
        self.refuse_foreign()
        self.drop_partials()
        if left := sorted(entry.name for entry in self.path.iterdir() if entry.name != scratch):
            raise OutputError(
                f"{self.path}: holds parts of {self.what} without their {self.complete} ({', '.join(left[:3])}); "
                "give --restart to throw them away, or name another --out"
            )
        shutil.rmtree(self.path / scratch, ignore_errors=True)
        (self.path / scratch).mkdir()
        return self.path / scratch

    def drop_partials(self) -> None:
        """Remove what a killed run was in the middle of writing."""
        for entry in self.path.rglob(".*"):
            if _PARTIAL.fullmatch(entry.name):
                entry.unlink(missing_ok=True)


def differences(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> list[str]:
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
