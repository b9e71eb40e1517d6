"""Checks of one shard against its part of the manifest."""

import hashlib
import io
import math
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
from ser_batch.records.folder import PROVENANCE, Shard
from ser_batch.records.manifest import part_path, read_part
from ser_batch.records.tfrecords import read_records
from ser_batch.records.verification.metadata import Problem, limit_problems, part_name, read_failure

_BLOCK_BYTES = 1 << 20
# A record's length and its CRC: if they are damaged, the next record cannot be located.
_HEADER_BYTES = 12

# The manifest rounds to microseconds, the Example to float32.
_ROUNDING_SECS = 1e-6


# A row of the manifest by column, with ``row``: its number in the part, from 0.
Row = dict[str, Any]


@dataclass(frozen=True)
class ShardCheck:
    """Task of a worker: one shard to check.

    Attributes:
        folder: the record folder.
        shard: the shard's entry in the provenance.
        shape: ``(n_mels, n_frames)`` of every log-mel.
        labels: label names in order.
        is_part_unchanged: whether its part of the manifest has its original checksum.
    """

    folder: Path
    shard: Shard
    shape: Shape
    labels: tuple[str, ...]
    is_part_unchanged: bool

    @property
    def part(self) -> str:
        """Name of the part in messages."""
        return part_name(self.shard.name)


@dataclass(frozen=True)
class ShardReport:
    """Result of a shard's check.

    Attributes:
        sha256: of the shard's bytes; empty if they cannot be read.
        problems: the problems found.
    """

    sha256: str
    problems: list[Problem]


class _ShardFile(io.BufferedReader):
    """A shard that is hashed while it is read.

    Attributes:
        size: number of bytes in the file.
        n_read: number of bytes read.
        sha256: over the bytes read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path), _BLOCK_BYTES)
        self.size = os.fstat(self.fileno()).st_size
        self.n_read = 0
        self.sha256 = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        """Read at most the rest of the file: a damaged record length may be any number."""
        rest = max(self.size - self.n_read, 0)
        data = super().read(rest if size is None or size < 0 else min(size, rest))
        self.n_read += len(data)
        self.sha256.update(data)
        return data

    def records(self) -> Iterator[bytes | RecordsError]:
        """The records, with an error in place of each damaged one, up to the first that hides the next record."""
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
        """Read the rest of the file, for the checksum."""
        while self.read(_BLOCK_BYTES):
            pass


def check_shard(task: ShardCheck) -> ShardReport:
    """Read a shard once, and compare it with its part of the manifest and the provenance."""
    name = task.shard.name
    of_part: list[Problem] = []
    rows = _read_rows(task, of_part)
    try:
        with _ShardFile(task.folder / name) as file:
            problems = list(_record_problems(task, rows, file))
            file.read_rest()
            sha256, size = file.sha256.hexdigest(), file.n_read
    except OSError as error:
        what = f"{read_failure(error)}, with its {pluralize(task.shard.examples, 'example')}"
        return ShardReport("", limit_problems([*of_part, Problem(name, None, "", what)]))
    if (sha256, size) != (task.shard.sha256, task.shard.bytes):
        stated = f"{task.shard.bytes} bytes with the sha256 {task.shard.sha256[:12]}…"
        what = f"is {size} bytes with the sha256 {sha256[:12]}…; {PROVENANCE} has {stated}"
        problems.append(Problem(name, None, "", what))
    if not task.is_part_unchanged and not of_part and not problems:
        of_part.append(Problem(task.part, None, "", f"is not the file whose sha256 {PROVENANCE} holds"))
    return ShardReport(sha256, limit_problems(of_part + problems))


def _read_rows(task: ShardCheck, problems: list[Problem]) -> list[Row] | None:
    """The valid rows of the shard's examples; None if the part cannot be read, or is that of another shard."""
    try:
        part = read_part(part_path(task.folder, task.shard.name))
    except RecordsError as error:
        problems.append(Problem(task.part, None, "", str(error)))
        return None
    rows: list[Row] = []
    others: list[Row] = []
    for row in (values | {"row": number} for number, values in enumerate(part.to_pylist())):
        if row["error"] is not None:
            continue
        if row["shard"] != task.shard.name:
            others.append(row)
        elif row["index"] is None or row["index"] < 0 or not _are_finite(row["start"], row["end"]):
            what = f"row {row['row']} has no usable start, end or index ({row['start']}, {row['end']}, {row['index']})"
            problems.append(Problem(task.part, None, row["file"] or "", what))
        else:
            rows.append(row)
    if others:
        first = others[0]
        more = f", and so are {len(others) - 1} more" if len(others) > 1 else ""
        what = f"row {first['row']} is of the shard {first['shard']}{more}"
        problems.append(Problem(task.part, None, first["file"] or "", what))
    return rows if rows or not others else None


def _are_finite(*numbers: float | None) -> bool:
    return all(number is not None and math.isfinite(number) for number in numbers)


def _record_problems(task: ShardCheck, rows: list[Row] | None, file: _ShardFile) -> Iterator[Problem]:
    name = task.shard.name
    yield from _row_problems(task, rows or [])
    row_of: dict[int, Row] = {}
    for row in rows or ():
        row_of.setdefault(row["index"], row)
    n_records = 0
    for index, record in enumerate(file.records()):
        n_records += 1
        found = row_of.pop(index, None)
        if isinstance(record, RecordsError):
            yield Problem(name, index, found["file"] if found else "", f"the shard {record}")
        else:
            yield from _example_problems(task, index, record, found, has_rows=rows is not None)
    broke_off = file.n_read < file.size
    if row_of:
        first = row_of[min(row_of)]
        why = "it cannot be located after the damage before it" if broke_off else "the shard ends before it"
        more = f"; the same applies to {len(row_of) - 1} records after it" if len(row_of) > 1 else ""
        yield Problem(name, first["index"], first["file"], f"is in {task.part}, but {why}{more}")
    if not broke_off and n_records != task.shard.examples:
        yield Problem(name, None, "", f"holds {n_records} records; {PROVENANCE} lists {task.shard.examples}")


def _row_problems(task: ShardCheck, rows: list[Row]) -> Iterator[Problem]:
    """Check that a shard's rows number its records in order, and have its split."""
    seen: dict[int, int] = {}
    highest = -1
    for row in rows:
        problem = partial(Problem, task.shard.name, row["index"], row["file"])
        if row["index"] in seen:
            yield problem(f"has two rows in {task.part}: {seen[row['index']]} and {row['row']}")
        elif row["index"] < highest:
            yield problem(f"row {row['row']} of {task.part} is out of order")
        if row["split"] != task.shard.split:
            yield problem(
                f"row {row['row']} of {task.part} has split {row['split']}; its shard is of {task.shard.split}"
            )
        seen.setdefault(row["index"], row["row"])
        highest = max(highest, row["index"])


def _example_problems(
    task: ShardCheck, index: int, serialized: bytes, row: Row | None, has_rows: bool
) -> Iterator[Problem]:
    problem = partial(Problem, task.shard.name, index)
    try:
        example = parse(serialized, task.shape)
    except RecordsError as error:
        yield problem(row["file"] if row else "", f"the record {error}")
        return
    file = row["file"] if row else example.file
    if n_odd := int(np.count_nonzero(~np.isfinite(example.log_mel))):
        yield problem(file, f"{n_odd} of its log-mel values are not finite")
    label = task.labels[example.label] if 0 <= example.label < len(task.labels) else None
    if label is None:
        yield problem(file, f"its label is {example.label}; there are {len(task.labels)} labels, from 0")
    if row is not None:
        for what in _differences(example, label, row):
            yield problem(file, f"{what} (row {row['row']} of {task.part})")
    elif has_rows:
        yield problem(file, f"is in no row of {task.part}")


def _differences(example: Example, label: str | None, row: Row) -> Iterator[str]:
    """The differences between an example and its row."""
    if example.file != row["file"]:
        yield f"the record is of {example.file}, its row is of {row['file']}"
    if example.speaker != row["speaker"]:
        yield f"the record's speaker is {example.speaker or 'unknown'}, its row's {row['speaker'] or 'unknown'}"
    if label is not None and label != row["label"]:
        yield f"the record's label is {example.label}, {label}, its row's is {row['label']}"
    for name, stored in (("start", example.start), ("end", example.end)):
        # In this form, NaN counts as a difference.
        if not abs(stored - row[name]) <= _ROUNDING_SECS + abs(row[name]) * np.finfo(np.float32).eps:
            yield f"the record's {name} is {stored:.6f} s, its row's {row[name]:.6f} s"
