"""From a folder, a file, a list or a CSV to the table of recordings, in a fixed order."""

import codecs
import csv
import io
import os
import re
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ser_batch.errors import AudioError, SourceError
from ser_batch.files import file_sha256

EXTENSIONS = frozenset(
    "aac ac3 aif aifc aiff amr ape asf au avi awb caf flac flv gsm m4a m4b m4v mka mkv mov mp1 mp2 mp3 mp4 mpeg mpg "
    "oga ogg ogv opus rf64 snd sph spx tta voc w64 wav wave webm wma wmv wv 3g2 3ga 3gp".split()
)


@dataclass(frozen=True, slots=True)
class Recording:
    """One audio file, or a ``[start, end)`` part of one.

    Attributes:
        file: its key in every table, printable (see `printable`).
        path: where its bytes are, as the operating system names it.
        label, speaker, split: what is known of it; None where nothing is.
        start_secs: where the part begins.
        end_secs: where it ends; None: with the file.
    """

    file: str
    path: str
    label: str | None = None
    speaker: str | None = None
    split: str | None = None
    start_secs: float = 0.0
    end_secs: float | None = None


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that cannot be used, and why: a row of errors.csv.

    Attributes:
        file: its key.
        stage: where it failed: ``list``, ``label``, ``read``, ``decode``, ``check`` or ``worker``.
        reason: one line.
        sha256: of the audio file; empty where its bytes were not read.
    """

    file: str
    stage: str
    reason: str
    sha256: str = ""


@dataclass(frozen=True)
class Listing:
    """What a SOURCE holds.

    Attributes:
        recordings: in SOURCE's order.
        rejections: inputs that cannot even be listed.
        other_files: how many files in a directory are no audio by their extension.
        has_columns: the columns that a CSV gave.
    """

    recordings: list[Recording]
    rejections: list[Rejection] = field(default_factory=list)
    other_files: int = 0
    has_columns: frozenset[str] = frozenset()


def printable(name: str) -> str:
    r"""A file's name as text that every table can hold and that stays unique.

    Bytes that are not UTF-8 are written as ``\xNN``, and a backslash as ``\\``.
    """
    doubled = name.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", doubled)


def list_source(source: str) -> Listing:
    """List a SOURCE: a directory, one file, a CSV with a ``file`` column, ``@list.txt``, or ``-`` for stdin.

    Raises:
        SourceError: it does not exist, is not in one of these forms, or holds no recording at all.
    """
    if source == "-":
        return _list_paths(sys.stdin.buffer.read(), Path(), "standard input")
    if source.startswith("@"):
        path = Path(source[1:])
        return _list_paths(_read(path), path.parent, str(path))
    path = Path(source)
    if path.is_dir():
        return _list_directory(path)
    if not path.exists():
        raise SourceError(f"{source}: no such file or directory")
    if path.suffix.lower() == ".csv":
        return _list_csv(path)
    if path.suffix.lower() == ".txt":
        raise SourceError(f"{source}: a text file; to read the paths in it, write @{source}")
    return Listing([Recording(printable(path.name), str(path))])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _list_directory(root: Path) -> Listing:
    found: list[str] = []
    rejections: list[Rejection] = []
    other_files = 0
    for relative, problem in _walk(root):
        if problem is not None:
            rejections.append(Rejection(printable(relative), "list", problem))
        elif os.path.splitext(relative)[1][1:].lower() in EXTENSIONS:
            found.append(relative)
        else:
            other_files += 1
    if not found and not rejections:
        holds = f"{other_files} other files" if other_files else "nothing"
        raise SourceError(f"{root}: no audio in it or its subfolders (it holds {holds}); name another folder")
    found.sort()
    recordings = [Recording(printable(relative), os.path.join(root, relative)) for relative in found]
    rejections.sort(key=lambda rejection: rejection.file)
    return Listing(recordings, rejections, other_files)


def _walk(root: Path) -> Iterator[tuple[str, str | None]]:
    """Each file's path relative to ``root``, hidden entries left out; or a folder's, with why it cannot be listed."""
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [("", frozenset())]
    while pending:
        folder, above = pending.pop()
        try:
            stat = os.stat(root / folder)
            here = (stat.st_dev, stat.st_ino)
            if here in above:
                yield folder, "is a link to a folder that contains it"
                continue
            with os.scandir(root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    relative = f"{folder}/{entry.name}" if folder else entry.name
                    if _leads_to_folder(entry):
                        pending.append((relative, above | {here}))
                    else:
                        yield relative, None
        except OSError as error:
            if not folder:
                raise SourceError(f"{root}: cannot be listed ({error.strerror})") from error
            yield folder, f"cannot be listed: {error.strerror}"


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: then a file that cannot be read, which gets its row
        return False


def _list_paths(content: bytes, base: Path, name: str) -> Listing:
    without_mark = content.removeprefix(codecs.BOM_UTF8)
    lines = [os.fsdecode(line.removesuffix(b"\r")) for line in without_mark.split(b"\n")]
    rows = [(number, {"file": line}) for number, line in enumerate(lines, 1) if line.strip()]
    return _list_rows(rows, base, name)


def _list_csv(path: Path) -> Listing:
    rows, columns = read_csv(path)
    if "file" not in columns:
        raise SourceError(f"{path}: no column 'file'; its columns are: {', '.join(columns) or 'none'}")
    return _list_rows(rows, path.parent, str(path), frozenset(columns))


def read_csv(path: Path) -> tuple[list[tuple[int, dict[str, str]]], list[str]]:
    """The rows of a CSV as text, each with its line number, and the column names.

    Raises:
        SourceError: it cannot be read as CSV.
    """
    text = os.fsdecode(_read(path)).removeprefix("\ufeff")
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
        rows = [(reader.line_num, {k: v for k, v in row.items() if k is not None}) for row in reader]
        return rows, list(reader.fieldnames or [])
    except csv.Error as error:
        raise SourceError(f"{path}: not a CSV ({error})") from error


def _list_rows(
    rows: Iterable[tuple[int, dict[str, str]]], base: Path, name: str, columns: frozenset[str] = frozenset()
) -> Listing:
    recordings: list[Recording] = []
    rejections: list[Rejection] = []
    first_line: dict[tuple[str, float, float | None], int] = {}
    for line, row in rows:
        file = printable(row["file"])
        if not file or "\0" in file:
            rejections.append(Rejection(file.replace("\0", ""), "list", f"line {line} of {name} names no file"))
            continue
        try:
            start_secs = parse_secs(row.get("start") or "0")
            end_secs = parse_secs(row["end"]) if row.get("end") else None
            if end_secs is not None and end_secs <= start_secs:
                raise ValueError(f"end {row['end']} is not after start {row.get('start') or 0}")
        except ValueError as error:
            rejections.append(Rejection(file, "list", f"line {line}: {error}"))
            continue
        key = (file, start_secs, end_secs)
        if key in first_line:
            rejections.append(Rejection(file, "list", f"line {line} repeats line {first_line[key]}"))
            continue
        first_line[key] = line
        path = os.path.join(base, row["file"])
        known = (printable(row.get(column, "").strip()) for column in ("label", "speaker", "split"))
        label, speaker, split = (text or None for text in known)
        recordings.append(Recording(file, path, label, speaker, split, start_secs, end_secs))
    if not recordings and not rejections:
        raise SourceError(f"{name}: names no recording; give one path a line")
    return Listing(recordings, rejections, has_columns=columns)


_CLOCK = re.compile(
    r"(?:(?P<days>\d{1,9}) days? )?(?P<hours>\d{1,9}):(?P<minutes>[0-5]?\d):(?P<secs>[0-5]?\d(?:\.\d+)?)"
)


def parse_secs(text: str) -> float:
    """Seconds from ``12.5`` or from ``HH:MM:SS.ffffff`` (also with ``N days`` before, as pandas writes it).

    Raises:
        ValueError: neither, or negative.
    """
    text = text.strip()
    if clock := _CLOCK.fullmatch(text):
        whole = int(clock["days"] or 0) * 86_400 + int(clock["hours"]) * 3600 + int(clock["minutes"]) * 60
        return whole + float(clock["secs"])
    if not re.fullmatch(r"\d{1,12}(\.\d*)?|\.\d+", text):
        raise ValueError(f"not a time: {text!r}; write seconds (12.5) or HH:MM:SS")
    return float(text)


def audio_sha256(path: str) -> str:
    """The SHA-256 of an audio file, in hex.

    Raises:
        AudioError: it cannot be read.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):  # a pipe could keep the batch waiting for ever
            raise AudioError("read", "is not a regular file")
        return _stat_sha256(path, status.st_size, status.st_mtime_ns)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise AudioError("read", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


@lru_cache(maxsize=16)
def _stat_sha256(path: str, size: int, mtime_ns: int) -> str:
    """Cached, because a CSV may name many parts of one long file."""
    return file_sha256(path)


def posix_stem(recording: Recording) -> str:
    """A recording's key without its extension, for schemes that read labels from names."""
    return os.path.splitext(recording.file)[0]
