"""How a file gets on disk: whole or not at all, and by one run at a time."""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ser_batch.errors import OutputError


@contextmanager
def open_atomically(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    r"""Open a file that appears under its name only when it was written whole and reached the disk.

    Args:
        path: the final name. Its folder must exist.
        mode: ``w`` for UTF-8 text with ``\n`` line ends, ``wb`` for bytes.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    try:
        with open(partial, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: object) -> None:
    """Write ``content`` atomically as JSON with sorted keys, so that equal content gives equal bytes."""
    with open_atomically(path) as file:
        file.write(json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def json_fingerprint(content: object) -> str:
    """The SHA-256, in hex, of a JSON value in canonical form (sorted keys, no spaces)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def file_sha256(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def output_folder(folder: Path) -> Iterator[None]:
    """Create a folder if it is absent and hold it for this process until the block ends.

    The lock is on the folder itself, so it leaves no file behind and ends with its process.

    Raises:
        OutputError: the folder cannot be made or written, or another run holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise OutputError(f"{folder}: cannot make this folder ({error.strerror}); name another with --out") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(f"{folder}: another run is writing here; wait for it, or name another --out") from error
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"{folder}: not writable by this user; change its rights, or name another --out")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors_named(where: Path) -> Iterator[None]:
    """Turn an OSError of the system (disk full, rights, quota) into one line that names the place.

    Raises:
        OutputError: for any OSError in the block.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{where}: cannot write ({error.strerror or error}); what was finished is kept: "
            "make room or change the rights, then run the same command again"
        ) from error


def differences(old: dict[str, Any], new: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The settings among ``names`` whose values differ, each as ``name was OLD, now NEW``."""
    return [
        f"{name} was {_shown(old.get(name))}, now {_shown(new.get(name))}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _shown(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
