"""The table of recordings: an Arrow table with a row for each."""

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.storage.tables import mapped, plain, with_column

# Numbers of recordings in a table, int64 (n,).
Rows = NDArray[np.int64]

# Start and end in seconds, as requested; None: not given.
Part = tuple[float | None, float | None]

_SHARED = pa.dictionary(pa.int32(), pa.string())

# ``file``: the key in every table, printable. ``root``: the part of the path before ``file``. ``path``: the whole path
# if it does not end with ``file``. Both are bytes, as they may not be UTF-8. ``start``, ``end``: seconds; null: those
# of the file. ``channel``: -1 is the mean of all; null: the front end's choice. An empty column, except ``file``,
# ``root`` and those of `_SHARED`, has Arrow's type null, which takes no memory.
SCHEMA = pa.schema(
    {
        "file": pa.large_string(),
        "root": pa.dictionary(pa.int32(), pa.binary()),
        "path": pa.large_binary(),
        "label": _SHARED,
        "speaker": _SHARED,
        "split": _SHARED,
        "start": pa.float64(),
        "end": pa.float64(),
        "channel": pa.int16(),
    }
)
MEAN_OF_CHANNELS = -1

_ROWS_AT_ONCE = 1 << 14
_ROWS_IN_MEMORY = 1 << 20


class Recording(NamedTuple):
    """One audio file, or a ``[start, end)`` part of one: a row of the table.

    Attributes:
        file: its key in every table, printable (see `ser_batch.corpus.sources.printable`).
        path: the operating system's path of the file.
        label, speaker, split: None if unknown.
        start_secs: start of the part in seconds.
        end_secs: end of the part in seconds; None: the end of the file.
        channel: the channel to use; None: the front end's choice.
    """

    file: str
    path: str
    label: str | None = None
    speaker: str | None = None
    split: str | None = None
    start_secs: float = 0.0
    end_secs: float | None = None
    channel: Literal["mean"] | int | None = None


def make_table(rows: Iterable[Recording]) -> pa.Table:
    """The table of recordings, in their order; a row takes about 25 bytes plus the name.

    Each million rows is in a temporary file without a name, which is mapped into memory: the system can take that
    memory back.
    """
    left = iter(rows)
    parts: list[pa.Table] = []
    mapped_tables: list[pa.Table] = []
    numbers_of: dict[str, dict[Any, int]] = {one.name: {} for one in SCHEMA if pa.types.is_dictionary(one.type)}
    while some := list(islice(left, _ROWS_AT_ONCE)):
        files, _, labels, speakers, splits, starts, ends, channels = zip(*some, strict=True)
        columns = {
            "file": files,
            "root": [os.fsencode(path.removesuffix(file)) if path.endswith(file) else None for file, path, *_ in some],
            "path": [None if path.endswith(file) else os.fsencode(path) for file, path, *_ in some],
            "label": labels,
            "speaker": speakers,
            "split": splits,
            "start": [start or None for start in starts],
            "end": ends,
            "channel": [MEAN_OF_CHANNELS if channel == "mean" else channel for channel in channels],
        }
        arrays = [_column(one, columns[one.name], numbers_of) for one in SCHEMA]
        parts.append(pa.Table.from_arrays(arrays, SCHEMA.names))
        if len(parts) * _ROWS_AT_ONCE >= _ROWS_IN_MEMORY:
            mapped_tables.append(mapped(pa.concat_tables(parts, promote_options="default")))
            parts = []
    empty = pa.Table.from_arrays([_column(one, [], numbers_of) for one in SCHEMA], SCHEMA.names)
    table = pa.concat_tables([empty, *mapped_tables, *parts], promote_options="default")
    for name, numbers in numbers_of.items():
        values = pa.array(numbers, SCHEMA.field(name).type.value_type)
        chunks = [pa.DictionaryArray.from_arrays(chunk, values) for chunk in table[name].chunks]
        table = with_column(table, name, pa.chunked_array(chunks))
    return table


def _column(field: pa.Field, values: Sequence[Any], numbers_of: dict[str, dict[Any, int]]) -> pa.Array:
    """A column; of one that is dictionary-encoded, the numbers of the values, and new values get numbers."""
    if pa.types.is_dictionary(field.type):
        numbers = numbers_of[field.name]
        found = [None if one is None else numbers.setdefault(one, len(numbers)) for one in values]
        return pa.array(found, field.type.index_type)
    is_null = field.name != "file" and not any(value is not None for value in values)
    return pa.nulls(len(values)) if is_null else pa.array(values, field.type)


def selected(table: pa.Table, rows: Rows) -> pa.Table:
    """The rows with these numbers, in this order; `pyarrow.Table.take` would first join all chunks of the table."""
    order = np.argsort(rows, kind="stable")
    in_order, start, parts = rows[order], 0, []
    for batch in table.to_batches():
        first, last = np.searchsorted(in_order, [start, start + len(batch)])
        if first < last:
            parts.append(batch.take(pa.array(in_order[first:last] - start)))
        start += len(batch)
    found = pa.Table.from_batches(parts, table.schema)
    if np.array_equal(in_order, rows):
        return found
    place = np.empty(len(rows), np.int64)
    place[order] = np.arange(len(rows))
    return found.combine_chunks().take(pa.array(place))


def recordings(table: pa.Table) -> Iterator[Recording]:
    """The rows of a table of recordings, converted in small batches."""
    for batch in table.select(SCHEMA.names).to_batches(max_chunksize=_ROWS_AT_ONCE // 4):
        columns = plain(pa.Table.from_batches([batch])).to_pydict()
        columns["path"] = _paths(columns)
        columns["start"] = [start or 0.0 for start in columns["start"]]
        columns["channel"] = ["mean" if one == MEAN_OF_CHANNELS else one for one in columns["channel"]]
        names = ("file", "path", "label", "speaker", "split", "start", "end", "channel")
        yield from map(Recording, *(columns[name] for name in names))


def paths(table: pa.Table) -> Iterator[str]:
    """The operating system's path of each recording."""
    for batch in table.select(["file", "root", "path"]).to_batches(max_chunksize=_ROWS_AT_ONCE // 4):
        yield from _paths(plain(pa.Table.from_batches([batch])).to_pydict())


def _paths(columns: dict[str, list[Any]]) -> list[str]:
    parts = zip(columns["file"], columns["root"], columns["path"], strict=True)
    return [os.fsdecode(root) + file if path is None else os.fsdecode(path) for file, root, path in parts]


def first_of_file(table: pa.Table) -> Rows:
    """For each recording the number of the first recording in the same file ``(n,)``."""
    return first_equal(text_keys(paths(table)))


def text_keys(texts: Iterable[str]) -> NDArray[np.uint64]:
    """64-bit hash of each text ``(n,)``: among ten million texts, two are equal once in 400,000 tables."""
    keys = array("Q")
    for text in texts:
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little"))
    return np.frombuffer(keys, np.uint64)


def first_equal(keys: NDArray[Any]) -> Rows:
    """For each key the index of the first equal key ``(n,)``."""
    order, is_new = ordered(keys)
    runs = np.flatnonzero(is_new)
    first = np.empty(len(keys), np.int64)
    first[order] = np.repeat(order[runs], np.diff(runs, append=len(keys)))
    return first


def ordered(keys: NDArray[Any]) -> tuple[Rows, NDArray[np.bool_]]:
    """Indices that sort the keys (stable), and whether each sorted key differs from the one before it.

    `numpy.unique` needs six arrays of this length for the same result.
    """
    order = np.argsort(keys, kind="stable")
    is_new = np.full(len(keys), True)
    in_order = keys[order]
    np.not_equal(in_order[1:], in_order[:-1], out=is_new[1:])
    return order, is_new


@dataclass(frozen=True, slots=True)
class Rejection:
    """An unusable input, with the reason.

    Attributes:
        file: its key.
        stage: failed step: ``list``, ``label``, ``read``, ``decode``, ``check`` or ``worker``.
        reason: one line.
        sha256: of the audio file; empty if its bytes were not read.
        part: requested start and end in seconds; an end of None is the end of the file; both None: not readable.
    """

    file: str
    stage: str
    reason: str
    sha256: str = ""
    part: Part = (None, None)

    def row(self) -> tuple[str, ...]:
        """As text: file, start, end, stage, reason, sha256."""
        start, end = ("" if secs is None else repr(secs) for secs in self.part)
        return self.file, start, end, self.stage, self.reason, self.sha256


@dataclass(frozen=True)
class Listing:
    """Content of a SOURCE.

    Attributes:
        recordings: in SOURCE's order.
        rejections: inputs that cannot be listed.
        other_files: number of files in a directory without an audio extension.
        has_columns: the known columns of a CSV.
        notes: warnings about a CSV's columns.
        label_notes: warnings about a CSV's label column, for commands that use labels.
        label_candidates: columns of a CSV that may hold the labels under another name.
        bases: the folder that relative paths are resolved against, by the name of the CSV or list.
    """

    recordings: pa.Table
    rejections: list[Rejection] = field(default_factory=list)
    other_files: int = 0
    has_columns: frozenset[str] = frozenset()
    notes: list[str] = field(default_factory=list)
    label_notes: list[str] = field(default_factory=list)
    label_candidates: list[str] = field(default_factory=list)
    bases: dict[str, str] = field(default_factory=dict)


def has_undecoded_bytes(printed: str) -> bool:
    """Whether a result of `printable` contains bytes that are not UTF-8."""
    return "\\x" in printed.replace("\\\\", "")
