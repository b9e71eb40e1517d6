"""From a folder, a file, a list or a CSV to the table of recordings, in a fixed order."""

import dataclasses
import hashlib
import io
import os
import re
import stat
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, overload
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.columns import ALIASES, SUFFIXES, SURPLUS, decoded, read_csv
from ser_batch.audio.folders import SPLIT_NAMES
from ser_batch.errors import AudioError, SourceError, UsageError
from ser_batch.files import file_sha256, url_problem
from ser_batch.wording import counted

# Numbers of recordings in a table, int64 (n,).
Rows = NDArray[np.int64]

# Start and end in seconds, as asked for; None: not given.
Part = tuple[float | None, float | None]

EXTENSIONS = frozenset(
    "aac ac3 aif aifc aiff amr ape asf au avi awb caf flac flv gsm m4a m4b m4v mka mkv mov mp1 mp2 mp3 mp4 mpeg mpg "
    "oga ogg ogv opus rf64 snd sph spx tta voc w64 wav wave webm wma wmv wv 3g2 3ga 3gp".split()
)

# The columns of a CSV that say something of a recording.
COLUMNS = ("file", "label", "speaker", "split", "start", "end")


@dataclass(frozen=True, slots=True)
class Recording:
    """One audio file, or a ``[start, end)`` part of one.

    Attributes:
        file: its key in every table, printable (see `printable`).
        path: where its bytes are, as the operating system names it.
        label, speaker, split: what is known of it; None where nothing is.
        start_secs: where the part begins.
        end_secs: where it ends; None: with the file.
        channel: which channel is used; None: the front end's choice.
    """

    file: str
    path: str
    label: str | None = None
    speaker: str | None = None
    split: str | None = None
    start_secs: float = 0.0
    end_secs: float | None = None
    channel: Literal["mean"] | int | None = None


# Few values for many recordings, so each is stored once; the prefix is the folder that a path begins with.
_SHARED = ("prefix", "label", "speaker", "split")
_MADE_AT_ONCE = 4096


class Recordings(Sequence[Recording]):
    """Recordings in a fixed order, in some 30 bytes each beside the name; a `Recording` is made when asked for.

    What is taken of a table shares its storage, and is pickled without the rest.
    """

    def __init__(self, recordings: Iterable[Recording] = ()) -> None:
        self._entries = bytearray()
        ends = array("q", [0])
        numbers: tuple[dict[str | None, int], ...] = ({}, {}, {}, {})
        prefixes, labels, speakers, splits = numbers
        of_prefix, of_label, of_speaker, of_split = codes = tuple(array("i") for _ in _SHARED)
        for one in recordings:
            prefix, entry = _entry(one)
            self._entries += entry.encode("utf-8", "surrogatepass")
            ends.append(len(self._entries))
            of_prefix.append(prefixes.setdefault(prefix, len(prefixes)))
            of_label.append(labels.setdefault(one.label, len(labels)))
            of_speaker.append(speakers.setdefault(one.speaker, len(speakers)))
            of_split.append(splits.setdefault(one.split, len(splits)))
        self._ends = np.frombuffer(ends, np.int64)
        self._codes = {name: np.frombuffer(code, np.int32) for name, code in zip(_SHARED, codes, strict=True)}
        self._values = {name: list(number) for name, number in zip(_SHARED, numbers, strict=True)}
        self._rows: Rows = np.arange(len(self._ends) - 1)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, place: int) -> Recording: ...
    @overload
    def __getitem__(self, place: slice) -> "Recordings": ...
    def __getitem__(self, place: int | slice) -> "Recording | Recordings":
        if isinstance(place, slice):
            return self._only(self._rows[place])
        return next(iter(self._only(self._rows[[place]])))

    def __iter__(self) -> Iterator[Recording]:
        for at in range(0, len(self), _MADE_AT_ONCE):
            rows = self._rows[at : at + _MADE_AT_ONCE]
            columns = ([self._values[name][code] for code in self._codes[name][rows].tolist()] for name in _SHARED)
            yield from map(_recording, self._stored(rows), *columns)

    def _stored(self, rows: Rows) -> list[bytearray]:
        bounds = zip(self._ends[rows].tolist(), self._ends[rows + 1].tolist(), strict=True)
        return [self._entries[begin:end] for begin, end in bounds]

    def __getstate__(self) -> dict[str, Any]:
        entries = self._stored(self._rows)
        values, codes = {}, {}
        for name in _SHARED:
            used, codes[name] = np.unique(self._codes[name][self._rows], return_inverse=True)
            values[name] = [self._values[name][code] for code in used]
        return {
            "_entries": bytearray().join(entries),
            "_ends": np.cumsum([0, *map(len, entries)]),
            "_codes": codes,
            "_values": values,
            "_rows": np.arange(len(self)),
        }

    def take(self, rows: Rows) -> "Recordings":
        """Those with the given numbers, in that order."""
        return self._only(self._rows[rows])

    def _only(self, stored: Rows) -> "Recordings":
        taken = Recordings.__new__(Recordings)
        taken.__dict__.update(self.__dict__, _rows=stored)
        return taken

    def with_splits(self, splits: Sequence[str], codes: NDArray[np.integer[Any]]) -> "Recordings":
        """The same recordings in other splits.

        Args:
            splits: names.
            codes: for each recording the number of its split's name ``(n,)``.
        """
        stored = np.zeros(len(self._ends) - 1, np.int32)
        stored[self._rows] = codes
        divided = self._only(self._rows)
        divided._codes = self._codes | {"split": stored}
        divided._values = self._values | {"split": list(splits)}
        return divided

    def column(self, name: Literal["label", "speaker", "split"]) -> tuple[list[str | None], NDArray[np.int32]]:
        """The values that occur in a column, and for each recording the number of its value ``(n,)``."""
        return self._values[name], self._codes[name][self._rows]

    def kinds(self) -> Counter[tuple[str | None, str | None, str | None]]:
        """How many recordings there are of each label, speaker and split."""
        labels, speakers, splits = (self._values[name] for name in _SHARED[1:])
        codes = self._codes["label"][self._rows].astype(np.int64)
        for name in ("speaker", "split"):
            codes *= len(self._values[name])
            codes += self._codes[name][self._rows]
        kinds: Counter[tuple[str | None, str | None, str | None]] = Counter()
        for code, count in zip(*(found.tolist() for found in np.unique(codes, return_counts=True)), strict=True):
            rest, split = divmod(code, len(splits))
            label, speaker = divmod(rest, len(speakers))
            kinds[labels[label], speakers[speaker], splits[split]] = count
        return kinds

    def first_of_file(self) -> Rows:
        """For each recording the number of the first one that is in the same file ``(n,)``."""
        keys = array("Q")
        for recording in self:
            keys.append(_key(recording.path))
        return first_equal(np.frombuffer(keys, np.uint64))


def _entry(recording: Recording) -> tuple[str, str]:
    """What a recording's path begins with, and what is stored of itself: mostly its key alone."""
    file, path = recording.file, recording.path
    prefix = path[: len(path) - len(file)]
    is_key = path.endswith(file)
    if is_key and not recording.start_secs and recording.end_secs is None and recording.channel is None:
        return prefix, file
    end = "" if recording.end_secs is None else repr(recording.end_secs)
    channel = "" if recording.channel is None else str(recording.channel)
    rest = f"{recording.start_secs!r}\0{end}\0{channel}"
    return (prefix, f"{file}\0\0{rest}") if is_key else ("", f"{file}\0{path}\0{rest}")


def _recording(
    entry: bytearray, prefix: str | None, label: str | None, speaker: str | None, split: str | None
) -> Recording:
    """The recording of `_entry`."""
    text = entry.decode("utf-8", "surrogatepass")
    if "\0" not in text:
        return Recording(text, f"{prefix}{text}", label, speaker, split)
    file, path, start, end, channel = text.split("\0")
    part = float(start), float(end) if end else None
    taken: Literal["mean"] | int | None = int(channel) if channel.isdecimal() else "mean" if channel else None
    return Recording(file, path or f"{prefix}{file}", label, speaker, split, *part, taken)


def _key(text: str) -> int:
    """64 bits that tell texts apart: among ten million, two share theirs once in 400,000 tables."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def first_equal(keys: NDArray[Any]) -> Rows:
    """For each key the place of the first that is equal to it ``(n,)``."""
    order, is_new = ordered(keys)
    runs = np.flatnonzero(is_new)
    places = np.empty(len(keys), np.int64)
    places[order] = np.repeat(order[runs], np.diff(runs, append=len(keys)))
    return places


def ordered(keys: NDArray[Any]) -> tuple[Rows, NDArray[np.bool_]]:
    """The places of all keys, equal ones beside each other in their order, and whether each differs from the last.

    `numpy.unique` holds six arrays of this length to tell the same.
    """
    order = np.argsort(keys, kind="stable")
    is_new = np.full(len(keys), True)
    in_order = keys[order]
    np.not_equal(in_order[1:], in_order[:-1], out=is_new[1:])
    return order, is_new


@dataclass(frozen=True, slots=True)
class Rejection:
    """An input that cannot be used, and why: a row of errors.csv.

    Attributes:
        file: its key.
        stage: where it failed: ``list``, ``label``, ``read``, ``decode``, ``check`` or ``worker``.
        reason: one line.
        sha256: of the audio file; empty where its bytes were not read.
        part: start and end in seconds, as asked for; None: the end of the file, or both where none could be read.
    """

    file: str
    stage: str
    reason: str
    sha256: str = ""
    part: Part = (None, None)

    def row(self) -> tuple[str, ...]:
        """As a row of errors.csv."""
        start, end = ("" if secs is None else repr(secs) for secs in self.part)
        return self.file, start, end, self.stage, self.reason, self.sha256


@dataclass(frozen=True)
class Listing:
    """What a SOURCE holds.

    Attributes:
        recordings: in SOURCE's order.
        rejections: inputs that cannot even be listed.
        other_files: how many files in a directory are no audio by their extension.
        has_columns: the columns of a CSV that are known.
        notes: warnings about a CSV's columns.
        label_notes: the same, for those who use its labels.
        label_questions: columns of a CSV without labels that may hold them under another name.
        bases: the folder that relative paths are taken from, by the name of the CSV or list.
    """

    recordings: Recordings
    rejections: list[Rejection] = field(default_factory=list)
    other_files: int = 0
    has_columns: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    label_notes: list[str] = field(default_factory=list)
    label_questions: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)


def printable(name: str) -> str:
    r"""A file's name as text that every table can hold and that stays unique.

    Bytes that are not UTF-8 are written as ``\xNN``, and a backslash as ``\\``.
    """
    if name.isascii() and "\\" not in name:
        return name
    doubled = name.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", doubled)


def is_undecoded(printed: str) -> bool:
    """Whether what `printable` gave stands for bytes that are not UTF-8."""
    return "\\x" in printed.replace("\\\\", "")


def composed(name: str) -> str:
    """A label or speaker as names are compared: in Unicode's composed form (NFC), without surrounding space."""
    return name.strip() if name.isascii() else normalize("NFC", name).strip()


def list_source(source: str) -> Listing:
    """List a SOURCE: a directory, one file, a CSV or TSV with a ``file`` column, ``@list.txt``, or ``-`` for stdin.

    Relative paths in a CSV or a list are taken from its folder, those from stdin from the working directory.

    Raises:
        SourceError: it does not exist, is not in one of these forms, or holds no recording at all.
    """
    return _list_source(source, whole_keys=False)


def list_sources(sources: Sequence[str]) -> Listing:
    """List one SOURCE or several, in their order.

    The keys of several begin with the path of their directory or are that of their file, those from CSVs and lists stay
    as they are written. A key that comes twice is a rejection, and so is a directory without audio.

    Raises:
        SourceError: as `list_source` does.
        UsageError: standard input is given twice.
    """
    if len(sources) == 1:
        return list_source(sources[0])
    if sources.count("-") > 1:
        raise UsageError("SOURCE -: standard input can be read only once; give - once")
    return _joined(sources, [_one_of_several(source) for source in sources])


def _list_source(source: str, whole_keys: bool) -> Listing:
    if source == "-":
        return _list_paths(sys.stdin.buffer.read(), Path(), "standard input")
    if source.startswith("@"):
        path = Path(source[1:])
        return _list_paths(_read(path), path.parent, str(path))
    path = Path(source)
    if path.is_dir():
        return _list_directory(path, whole_keys)
    if not os.path.lexists(path):
        raise SourceError(f"{source}: no such file or directory")
    if path.suffix.lower() in SUFFIXES:
        return _list_csv(path)
    if path.suffix.lower() == ".txt":
        raise SourceError(f"{path}: a text file; to read the paths in it, write @{source}")
    return Listing(Recordings([Recording(printable(str(path) if whole_keys else path.name), str(path))]))


def _one_of_several(source: str) -> Listing:
    try:
        return _list_source(source, whole_keys=True)
    except SourceError as error:
        path = Path(source)
        if not (path.is_dir() or (path.exists() and path.suffix.lower() == ".txt")):
            raise
        # A shell's * gives folders without audio and texts, too.
        reason = str(error).removeprefix(f"{path}: ")
        return Listing(Recordings(), [Rejection(printable(str(path)), "list", reason)])


def _joined(sources: Sequence[str], listings: list[Listing]) -> Listing:
    """The listings of several sources as one."""
    ends = np.cumsum([len(listing.recordings) for listing in listings])
    keys = array("Q")

    def all_recordings() -> Iterator[Recording]:
        for listing in listings:
            for recording in listing.recordings:
                keys.append(_key(repr(_part(recording))))
                yield recording

    recordings = Recordings(all_recordings())
    rejections = [one for listing in listings for one in listing.rejections]
    is_new = np.full(len(recordings), True)
    for repeat, first in _repeats(recordings, keys):
        is_new[repeat] = False
        where, before = (sources[int(np.searchsorted(ends, place, "right"))] for place in (repeat, first))
        reason = f"is named again by {printable(where)}, after {printable(before)}"
        file, *part = _part(recordings[repeat])
        rejections.append(Rejection(file, "list", reason, part=(part[0], part[1])))
    return Listing(
        recordings.take(np.flatnonzero(is_new)),
        rejections,
        sum(listing.other_files for listing in listings),
        frozenset.intersection(*(listing.has_columns for listing in listings)),
        [note for listing in listings for note in listing.notes],
        [note for listing in listings for note in listing.label_notes],
        [question for listing in listings for question in listing.label_questions],
        {name: base for listing in listings for name, base in listing.bases.items()},
    )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror})") from error


def _list_directory(root: Path, whole_keys: bool) -> Listing:
    walk = _Walk(root)
    prefix = os.path.join(root, "")
    before = prefix.removeprefix("./") if whole_keys else ""
    recordings = Recordings(Recording(printable(before + relative), prefix + relative) for relative in walk)
    if not recordings and not walk.rejections:
        holds = counted(walk.other_files, "other file") if walk.other_files else "nothing"
        raise SourceError(f"{root}: no audio in it or its subfolders (it holds {holds}); name another folder")
    rejections = [dataclasses.replace(one, file=printable(before) + one.file) for one in walk.rejections]
    return Listing(recordings, sorted(rejections, key=lambda one: one.file), walk.other_files)


class _Walk:
    """The audio files of a directory, by their paths relative to it, in the order of these as text.

    Attributes:
        rejections: folders that could not be listed so far.
        other_files: how many files that are no audio were met so far.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self.rejections: list[Rejection] = []
        self.other_files = 0

    def __iter__(self) -> Iterator[str]:
        # Only the folders on the way are held; a folder's name sorts with the slash that follows it.
        open_folders = [self._entries("", frozenset())]
        while open_folders:
            relative, above = next(open_folders[-1], (None, frozenset()))
            if relative is None:
                open_folders.pop()
            elif relative.endswith("/"):
                open_folders.append(self._entries(relative, above))
            else:
                yield relative

    def _entries(
        self, folder: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, frozenset[tuple[int, int]]]]:
        """Its audio files and, ending in a slash, its folders, in order; with all folders on the way to them."""
        names: list[str] = []
        try:
            status = os.stat(self._root / folder)
            here = (status.st_dev, status.st_ino)
            if here in above:
                self._reject(folder, "is a link to a folder that contains it")
                return
            with os.scandir(self._root / folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if _leads_to_folder(entry):
                        names.append(f"{entry.name}/")
                    elif os.path.splitext(entry.name)[1][1:].lower() in EXTENSIONS:
                        names.append(entry.name)
                    else:
                        self.other_files += 1
        except OSError as error:
            if not folder:
                raise SourceError(f"{self._root}: cannot be listed ({error.strerror})") from error
            self._reject(folder, f"cannot be listed: {error.strerror}")
        names.sort()
        for name in names:
            yield folder + name, above | {here}

    def _reject(self, folder: str, reason: str) -> None:
        self.rejections.append(Rejection(printable(folder.removesuffix("/")), "list", reason))


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: then a file that cannot be read, which gets its row
        return False


def _list_paths(content: bytes, base: Path, name: str) -> Listing:
    try:
        text = io.BytesIO(decoded(content))
    except UnicodeError as error:
        raise SourceError(f"{name}: has the byte order mark of UTF-16, but is not UTF-16; save it as UTF-8") from error
    lines = (os.fsdecode(line.rstrip(b"\n").removesuffix(b"\r")) for line in text)
    rows = ((number, {"file": line}) for number, line in enumerate(lines, 1) if line.strip())
    return _list_rows(rows, base, name)


def _list_csv(path: Path) -> Listing:
    table = read_csv(path, COLUMNS, ALIASES)
    if "file" not in table.columns:
        header = ", ".join(table.header) or "none"
        raise SourceError(f"{path}: no column 'file'; its columns are: {header}; rename the one that holds paths")
    listing = _list_rows(table.rows, path.parent, str(path))
    return dataclasses.replace(
        listing,
        has_columns=table.columns,
        notes=[*table.alias_note("file"), *table.unused_notes()],
        label_notes=table.alias_note("label"),
        label_questions=[f"{path}: column '{name}'" for name in table.possible_labels()],
    )


def _list_rows(rows: Iterable[tuple[int, dict[str, str]]], base: Path, name: str) -> Listing:
    refused: list[tuple[int, Rejection]] = []
    lines, keys = array("q"), array("Q")

    def usable() -> Iterator[Recording]:
        for line, row in rows:
            file = printable(row["file"])
            if not file or "\0" in file:
                rejection = Rejection(file.replace("\0", ""), "list", f"line {line} names no file")
                refused.append((line, rejection))
                continue
            if problem := row.get(SURPLUS):
                refused.append((line, Rejection(file, "list", f"line {line} {problem}")))
                continue
            try:
                recording = _of_row(row, base)
            except ValueError as error:
                refused.append((line, Rejection(file, "list", f"line {line}: {error}", part=_readable_part(row))))
                continue
            lines.append(line)
            keys.append(_key(repr(_part(recording))))
            yield recording

    recordings = Recordings(usable())
    is_new = np.full(len(recordings), True)
    for repeat, first in _repeats(recordings, keys):
        is_new[repeat] = False
        reason = f"line {lines[repeat]} repeats line {lines[first]}"
        file, *part = _part(recordings[repeat])
        refused.append((lines[repeat], Rejection(file, "list", reason, part=(part[0], part[1]))))
    if not lines and not refused:
        raise SourceError(f"{name}: names no recording; give one path a line")
    refused.sort(key=lambda one: one[0])
    bases = {name: os.path.abspath(base)}
    return Listing(recordings.take(np.flatnonzero(is_new)), [one for _, one in refused], bases=bases)


def _repeats(recordings: Recordings, keys: "array[int]") -> Iterator[tuple[int, int]]:
    """The places of recordings that are the same part of the same key as one before, and the place of that one.

    Args:
        recordings: a table.
        keys: for each recording `_key` of its `_part`.
    """
    first = first_equal(np.frombuffer(keys, np.uint64))
    for repeat in np.flatnonzero(first != np.arange(len(first))).tolist():
        if _part(recordings[repeat]) == _part(recordings[first[repeat]]):  # not just their keys
            yield repeat, int(first[repeat])


def _part(recording: Recording) -> tuple[str, float, float | None]:
    return recording.file, recording.start_secs, recording.end_secs


def _of_row(row: dict[str, str], base: Path) -> Recording:
    if problem := url_problem(row["file"]):
        raise ValueError(problem)
    start_secs = parse_secs(row.get("start") or "0")
    end_secs = parse_secs(row["end"]) if row.get("end") else None
    if end_secs is not None and end_secs <= start_secs:
        raise ValueError(f"end {row['end']} is not after start {row.get('start') or 0}")
    known = (composed(printable(row.get(column, ""))) for column in ("label", "speaker", "split"))
    label, speaker, split = (text or None for text in known)
    split = SPLIT_NAMES.get(split.casefold(), split) if split else None
    return Recording(
        printable(row["file"]), os.path.join(base, row["file"]), label, speaker, split, start_secs, end_secs
    )


def _readable_part(row: dict[str, str]) -> Part:
    """The times of a row, if both can be read."""
    try:
        return parse_secs(row.get("start") or "0"), parse_secs(row["end"]) if row.get("end") else None
    except ValueError:
        return None, None


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
