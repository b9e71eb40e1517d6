"""Local copies of inputs and outputs that lie in an S3 store.

A command works in a local folder. An input is copied there before, and only what has changed since; an output is sent
to the store when it is complete, each object whole and the one that marks it as complete last. An object store has no
rename and no lock: two runs that send to one output are told apart by a lease, an object with an age.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from ser_batch.errors import OutputError, SourceError
from ser_batch.storage import objects
from ser_batch.storage.writing import open_atomically, write_json

# An output with one of these is complete.
_MARKERS = ("provenance.json", "bundle.json", "scores.json", "export.json")
_LEASE_SECS = 900.0
_COPIED_BYTES = 4 << 20

# Of each file: size and time of change.
_Files = dict[str, list[int]]


def local_copy(url: str, is_wanted: Callable[[str], bool] | None = None) -> Path:
    """The local copy of an object or prefix that is read; it is never that of an output that is being made.

    Args:
        url: of the object or prefix.
        is_wanted: whether an object of this relative key is copied; None: all are.

    Raises:
        SourceError: it is missing in the store, or cannot be read.
    """
    try:
        if not (remote := _remote_files(url)):
            raise SourceError(f"{url}: no such object or prefix")
        if is_wanted is None:
            return _pulled(url, remote, _State(url, "inputs"))
        return _pulled(url, {name: remote[name] for name in remote if is_wanted(name)}, _State(url, "parts"))
    except OSError as error:
        raise SourceError(
            f"{url}: cannot be read ({error.strerror or error}); check the URL, the credentials and the address of "
            "the store"
        ) from error


@contextmanager
def published(url: str) -> Iterator[Path]:
    """The local folder or file of an output, which is sent to the store at the end.

    If the body raises, nothing is sent; the local files stay, and the next run continues from them.

    Raises:
        OutputError: the store cannot be read or written, or another run changed the output.
    """
    with _errors_named(url):
        remote, state = _remote_files(url), _State(url, "outputs")
        place = state.place
        if remote != state.remote:
            if state.is_ahead:
                raise OutputError(
                    f"{url}: was changed by another run since the one on this machine; remove {place.parent} to use "
                    "what is in the store, or choose another --out"
                )
            _pulled(url, remote, state)
        place.parent.mkdir(parents=True, exist_ok=True)
    yield place
    with _errors_named(url):
        state = _State(url, "outputs")
        if _remote_files(url) != state.remote:
            raise OutputError(f"{url}: was changed by another run; nothing was sent, the output is in {place}")
        if state.is_ahead:
            with _lease(url):
                _send(url, state)


def cache_folder() -> Path:
    """The folder of all local copies: ``SER_BATCH_CACHE``, or ``ser-batch`` in the user's cache."""
    given = os.environ.get("SER_BATCH_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "ser-batch"


class _State:
    """What was in the store, and what was here, when both were last the same.

    Attributes:
        place: the local folder or file; inputs, parts of inputs, and outputs have different ones.
        remote, local: the files there and here.
    """

    def __init__(self, url: str, kind: Literal["inputs", "parts", "outputs"]) -> None:
        folder = cache_folder() / kind / hashlib.blake2b(url.encode(), digest_size=8).hexdigest()
        self.place = folder / url.rpartition("/")[2]
        self._path = folder / "state.json"
        self.remote: _Files = {}
        self.local: _Files = {}
        if self._path.exists():
            stored: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
            self.remote, self.local = stored["remote"], stored["local"]

    @property
    def is_ahead(self) -> bool:
        """Whether there are local files that are not in the store."""
        return _local_files(self.place) != self.local

    def write(self, remote: _Files) -> None:
        """Store that both are the same now."""
        write_json(self._path, {"remote": remote, "local": _local_files(self.place)})


def _remote_files(url: str) -> _Files:
    """The objects below a prefix, or the one object (its name is empty); empty: there is none."""
    return {name: [status.size, status.mtime_ns] for name, status in objects.statuses(url).items()}


def _local_files(place: Path) -> _Files:
    """The files of a folder, or the one file (its name is empty), without hidden ones."""
    paths = [place] if place.is_file() else [path for path in sorted(place.rglob("*")) if path.is_file()]
    names = {"" if path == place else path.relative_to(place).as_posix(): path for path in paths}
    shown = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    return {name: [path.stat().st_size, path.stat().st_mtime_ns] for name, path in shown.items()}


def _pulled(url: str, remote: _Files, state: _State) -> Path:
    """Copy what differs from the last copy, remove what is gone, and return the local place."""
    place = state.place
    here = _local_files(place)
    for name in sorted(remote):
        if remote[name] != state.remote.get(name) or here.get(name) != state.local.get(name) or name not in here:
            target = place / name if name else place
            target.parent.mkdir(parents=True, exist_ok=True)
            with objects.ObjectFile(f"{url}/{name}" if name else url) as source, open_atomically(target, "wb") as file:
                shutil.copyfileobj(source, file, _COPIED_BYTES)
    for name in here.keys() - remote.keys():
        (place / name if name else place).unlink()
    state.write(remote)
    return place


def _send(url: str, state: _State) -> None:
    """Send what differs from the store, the marker last; remove what is gone."""
    place = state.place
    here = _local_files(place)
    changed = [name for name in here if here[name] != state.local.get(name) or name not in state.remote]
    gone = [name for name in state.remote if name not in here]
    # While parts are replaced, the old marker must not vouch for them.
    stale = [name for name in _MARKERS if name in state.remote and (set(changed) | set(gone)) - {name}]
    for name in stale:
        objects.remove(f"{url}/{name}")
    again = [name for name in stale if name in here]
    for name in sorted({*changed, *again}, key=lambda name: (name in _MARKERS, name)):
        objects.send(place / name if name else place, f"{url}/{name}" if name else url)
    for name in set(gone) - set(stale):
        objects.remove(f"{url}/{name}" if name else url)
    state.write(_remote_files(url))


@contextmanager
def _lease(url: str) -> Iterator[None]:
    """Hold the lease of an output.

    Raises:
        OutputError: another run holds it.
    """
    lease = f"{url}.lease"
    if (status := objects.statuses(lease).get("")) and time.time() - status.mtime_ns / 1e9 < _LEASE_SECS:
        raise OutputError(
            f"{url}: another run is sending to it; wait for it (if it was killed, {_LEASE_SECS / 60:g} minutes), and "
            "run the same command again"
        )
    objects.send_bytes(b"", lease)
    try:
        yield
    finally:
        objects.remove(lease)


@contextmanager
def _errors_named(url: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{error.filename or url}: {error.strerror or error}; fix the cause, then run the same command again"
        ) from error
