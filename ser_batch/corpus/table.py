"""The table of recordings."""

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

# Numbers of recordings in a table, int64 (n,).
Rows = NDArray[np.int64]

# Start and end in seconds, as asked for; None: not given.
Part = tuple[float | None, float | None]


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


def is_undecoded(printed: str) -> bool:
    """Whether what `printable` gave stands for bytes that are not UTF-8."""
    return "\\x" in printed.replace("\\\\", "")


def posix_stem(recording: Recording) -> str:
    """A recording's key without its extension, for schemes that read labels from names."""
    return os.path.splitext(recording.file)[0]
