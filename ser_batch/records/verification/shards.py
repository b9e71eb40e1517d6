"""Checks of one shard against its rows."""

import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ser_batch.errors import RecordsError
from ser_batch.formatting import pluralize
from ser_batch.records.examples import Example, Shape, parse
from ser_batch.records.folder import MANIFEST, PROVENANCE
from ser_batch.records.tfrecords import read_records
from ser_batch.records.verification.metadata import Problem, _Row, _unreadable

_BLOCK_BYTES = 1 << 20
# A record's length and its CRC: where they are damaged, nothing says where the next record begins.
_HEADER_BYTES = 12

# The manifest rounds to microseconds, the Example to float32.
_ROUNDING_SECS = 1e-6


@dataclass(frozen=True)
class _ShardCheck:
    """One shard to check: all a worker needs to know.

    Attributes:
        folder: the record folder.
        shard: what the provenance says of it.
        shape: ``(n_mels, n_frames)`` of every log-mel.
        labels: label names in order.
        rows: the shard's rows, in the manifest's order; None where the manifest cannot be read.
    """

    folder: Path
    shard: dict[str, Any]
    shape: Shape
    labels: tuple[str, ...]
    rows: tuple[_Row, ...] | None


@dataclass(frozen=True)
class _ShardReport:
    """What a shard turned out to be.

    Attributes:
        sha256: of its bytes; empty where they cannot be read.
        problems: what is wrong with it.
    """

    sha256: str
    problems: list[Problem]


class _ShardFile(io.BufferedReader):
    """A shard that is hashed while it is read.

    Attributes:
        size: its bytes.
        n_read: how many of them were read.
        sha256: over those that were read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path), _BLOCK_BYTES)
        self.size = os.fstat(self.fileno()).st_size
        self.n_read = 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        """As every file's, and never more than there is: a length that is read may be any number."""
        rest = max(self.size - self.n_read, 0)
        data = super().read(rest if size is None or size < 0 else min(size, rest))
        self.n_read += len(data)
        self.sha256.update(data)
        return data

    def records(self) -> Iterator[bytes | RecordsError]:
        """The records, or in a damaged one's place what is wrong with it, as far as they can be told apart."""
        while self.n_read < self.size:
            begin = self.n_read
            try:
                for serialized in read_records(self):
                    begin = self.n_read
                    yield serialized
            except RecordsError as error:
                yield error
                if self.n_read - begin <= _HEADER_BYTES:
                    return

    def read_rest(self) -> None:
        """Read on to the end, for the checksum."""
        while self.read(_BLOCK_BYTES):
            pass


def _check_shard(task: _ShardCheck) -> _ShardReport:
    """Read a shard once, and compare it with the manifest and the provenance."""
    name = task.shard["name"]
    try:
        with _ShardFile(task.folder / name) as file:
            problems = list(_record_problems(task, file))
            file.read_rest()
            sha256, size = file.sha256.hexdigest(), file.n_read
    except OSError as error:
        what = f"{_unreadable(error)}, with its {pluralize(task.shard['examples'], 'example')}"
        return _ShardReport("", [Problem(name, None, "", what)])
    if (sha256, size) != (task.shard["sha256"], task.shard["bytes"]):
        stated = f"{task.shard['bytes']} bytes with the sha256 {task.shard['sha256'][:12]}…"
        what = f"is {size} bytes with the sha256 {sha256[:12]}…; {PROVENANCE} says {stated}"
        problems.append(Problem(name, None, "", what))
    return _ShardReport(sha256, problems)


def _record_problems(task: _ShardCheck, file: _ShardFile) -> Iterator[Problem]:
    name = task.shard["name"]
    yield from _row_problems(task)
    rows: dict[int, _Row] = {}
    for row in task.rows or ():
        rows.setdefault(row.index, row)
    n_records = 0
    for index, record in enumerate(file.records()):
        n_records += 1
        found = rows.pop(index, None)
        if isinstance(record, RecordsError):
            yield Problem(name, index, found.file if found else "", f"the shard {record}")
        else:
            yield from _example_problems(task, index, record, found)
    broke_off = file.n_read < file.size
    if rows:
        first = rows[min(rows)]
        why = "the damage before it hides where it begins" if broke_off else "the shard ends before it"
        more = f"; so it is with {len(rows) - 1} records after it" if len(rows) > 1 else ""
        yield Problem(name, first.index, first.file, f"is in {MANIFEST}, but {why}{more}")
    if not broke_off and n_records != task.shard["examples"]:
        yield Problem(name, None, "", f"holds {n_records} records; {PROVENANCE} says {task.shard['examples']}")


def _row_problems(task: _ShardCheck) -> Iterator[Problem]:
    """Whether a shard's rows count its records from first to last, and stand in its split."""
    lines: dict[int, int] = {}
    highest = -1
    for row in task.rows or ():
        if row.index in lines:
            what = f"has two rows in {MANIFEST}: lines {lines[row.index]} and {row.line}"
            yield Problem(row.shard, row.index, row.file, what)
        elif row.index < highest:
            yield Problem(row.shard, row.index, row.file, f"line {row.line} of {MANIFEST} is out of order")
        if row.split != task.shard["split"]:
            what = f"line {row.line} of {MANIFEST} says split {row.split}; its shard is of {task.shard['split']}"
            yield Problem(row.shard, row.index, row.file, what)
        lines.setdefault(row.index, row.line)
        highest = max(highest, row.index)


def _example_problems(task: _ShardCheck, index: int, serialized: bytes, row: _Row | None) -> Iterator[Problem]:
    problem = partial(Problem, task.shard["name"], index)
    try:
        example = parse(serialized, task.shape)
    except RecordsError as error:
        yield problem(row.file if row else "", f"the record {error}")
        return
    file = row.file if row else example.file
    if n_odd := int(np.count_nonzero(~np.isfinite(example.log_mel))):
        yield problem(file, f"{n_odd} of its log-mel values are not finite")
    label = task.labels[example.label] if 0 <= example.label < len(task.labels) else None
    if label is None:
        yield problem(file, f"its label is {example.label}; there are {len(task.labels)} labels, from 0")
    if row is not None:
        for what in _differences(example, label, row):
            yield problem(file, f"{what} (line {row.line} of {MANIFEST})")
    elif task.rows is not None:
        yield problem(file, f"is in no row of {MANIFEST}")


def _differences(example: Example, label: str | None, row: _Row) -> Iterator[str]:
    """How an example is not the one that its row describes."""
    if example.file != row.file:
        yield f"the record is of {example.file}, its row is of {row.file}"
    if example.speaker != row.speaker:
        yield f"the record's speaker is {example.speaker or 'unknown'}, its row's {row.speaker or 'unknown'}"
    if label is not None and label != row.label:
        yield f"the record's label is {example.label}, {label}, its row's is {row.label}"
    for name, stored, listed in (
        ("start", example.start, row.start_secs),
        ("end", example.end, row.end_secs),
    ):
        # Written so that NaN is no agreement.
        if not abs(stored - listed) <= _ROUNDING_SECS + abs(listed) * np.finfo(np.float32).eps:
            yield f"the record's {name} is {stored:.6f} s, its row's {listed:.6f} s"
