"""From a finished record folder to the list of what is wrong with it.

A shard is one task: it is read once, from beginning to end, for its checksum, its records and their
agreement with the manifest. What spans shards (the metadata, the order of the manifest, speakers) is
checked by the caller's process. Damage is what this stage is for: it is returned, never raised.
"""

import csv
import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.recordings import Listing
from ser_batch.errors import FrontEndError, RecordsError
from ser_batch.files import file_sha256
from ser_batch.records.examples import Example, Shape, parse, read_records
from ser_batch.records.layout import (
    DATASET,
    DATASET_INFO,
    ERRORS,
    LABEL_NAMES,
    MANIFEST,
    MANIFEST_COLUMNS,
    PROVENANCE,
    RecordFolder,
    recording_spans,
    records_fingerprint,
    repeated,
    shard_name,
    tfds_files,
)
from ser_batch.records.splits import SPLITS
from ser_batch.tasks import Engine, Outcome
from ser_batch.wording import counted

_BLOCK_BYTES = 1 << 20
# A record's length and its CRC: where they are damaged, nothing says where the next record begins.
_HEADER_BYTES = 12
_AUDIO_FILES_PER_TASK = 100
# The manifest rounds to microseconds, the Example to float32.
_ROUNDING_SECS = 1e-6

_PROVENANCE_TYPES = {
    "errors": int,
    "fingerprint": str,
    "front_end": dict,
    "front_end_fingerprint": str,
    "labels": list,
    "plan": dict,
    "shards": list,
    "tables": dict,
}
_SHARD_TYPES = {"bytes": int, "examples": int, "name": str, "sha256": str, "split": str}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; as text, one line.

    Attributes:
        shard: the shard, or the metadata file, that is wrong.
        index: the record's number in its shard, from 0; None where it is not one record.
        file: the recording's key; empty where it is not one recording.
        what: what is wrong with it.
    """

    shard: str
    index: int | None
    file: str
    what: str

    def __str__(self) -> str:
        record = "" if self.index is None else f"record {self.index}"
        place = ", ".join(part for part in (self.shard, record, self.file) if part)
        return f"{place}: {self.what}".replace("\r", "\\r").replace("\n", "\\n")


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the manifest, and the line of the file that it ends on."""

    line: int
    file: str
    start_secs: float
    end_secs: float
    label: str
    speaker: str
    split: str
    shard: str
    index: int
    sha256: str


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


def verify_records(
    records: RecordFolder,
    engine: Engine,
    source: Listing | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Problem]:
    """All that is wrong with a record folder: the metadata's problems first, then each shard's in order.

    Args:
        records: the folder.
        engine: where shards are read.
        source: what the folder was built from, to see that its audio is still the same; None: not checked.
        on_progress: called with (examples and audio files done, all) after each shard.
    """
    if malformed := _malformed_provenance(records.provenance):
        return [Problem(PROVENANCE, None, "", malformed)]
    survey = _Survey(records, with_files=source is not None)
    problems = [*_metadata_problems(records), *_listed_shard_problems(records), *survey.problems]
    listed = {recording.file: recording.path for recording in source.recordings} if source else {}
    present = [(row, listed[row.file]) for row in survey.files.values() if row.file in listed]
    problems += [
        Problem(row.shard, row.index, row.file, "its audio is not in SOURCE; name what the folder was built from")
        for row in survey.files.values()
        if row.file not in listed
    ]
    done, total = 0, records.n_examples() + len(present)
    on_progress(done, total)
    for shard in engine.map(_check_shard, _shard_checks(records, survey)):
        problems += _shard_problems(shard, records)
        done += shard.task.shard["examples"]
        on_progress(done, total)
    for audio in engine.map(_check_audio, _parts(present, _AUDIO_FILES_PER_TASK)):
        problems += _audio_problems(audio)
        done += len(audio.task)
        on_progress(done, total)
    if not problems:
        problems += _table_problems(records)
    if not problems:
        problems += _repeat_problems(records)
    order = {shard["name"]: number for number, shard in enumerate(records.shards())}
    # Tasks end in any order; the list is the same for any number of workers.
    return sorted(problems, key=lambda p: (order.get(p.shard, -1), -1 if p.index is None else p.index))


def _parts(items: Sequence[tuple[_Row, str]], size: int) -> Iterator[Sequence[tuple[_Row, str]]]:
    return (items[at : at + size] for at in range(0, len(items), size))


# --- the metadata, without a look into shards


def _malformed_provenance(provenance: dict[str, Any]) -> str | None:
    """Why nothing else can be checked, if so."""
    if name := _mistyped(provenance, _PROVENANCE_TYPES):
        return f"has no usable {name}; build the folder again with build-records --restart"
    for shard in provenance["shards"]:
        if name := _mistyped(shard, _SHARD_TYPES):
            return f"has a shard without a usable {name}; build the folder again with build-records --restart"
    if not all(isinstance(label, str) for label in provenance["labels"]):
        return "has labels that are no text; build the folder again with build-records --restart"
    try:
        shape = FrontEnd.from_json(provenance["front_end"]).shape
        if not all(isinstance(size, int) and size > 0 for size in shape if size is not None):
            raise ValueError(f"its log-mels would have the shape {shape}")
    except (FrontEndError, ArithmeticError, TypeError, ValueError) as error:
        return f"has no usable front_end ({error}); build the folder again with build-records --restart"
    return None


def _mistyped(values: object, types: dict[str, type]) -> str | None:
    """The first name whose value is missing or of another type."""
    if not isinstance(values, dict):
        return next(iter(types))
    return next((name for name, kind in types.items() if not isinstance(values.get(name), kind)), None)


def _metadata_problems(records: RecordFolder) -> Iterator[Problem]:
    """Whether the small files agree with the provenance, and that with itself."""
    provenance, labels, shards = records.provenance, records.labels, records.shards()
    if records_fingerprint(records.front_end, labels, shards) != records.fingerprint:
        yield Problem(
            PROVENANCE, None, "", "its fingerprint is not that of the front end, labels and shards that it lists"
        )
    if records.front_end.fingerprint != provenance["front_end_fingerprint"]:
        yield Problem(PROVENANCE, None, "", "its front_end_fingerprint is not that of its front_end")
    for name, expected in tfds_files(records.front_end.shape, labels, shards).items():
        try:
            found = json.loads((records.path / name).read_bytes())
        except (OSError, ValueError) as error:
            yield Problem(name, None, "", _unreadable(error))
            continue
        if found != expected:
            yield Problem(name, None, "", _tfds_difference(name, found, shards))
    try:
        if (records.path / LABEL_NAMES).read_bytes() != "".join(f"{label}\n" for label in labels).encode():
            yield Problem(LABEL_NAMES, None, "", f"does not hold the labels of {PROVENANCE}: {', '.join(labels)}")
        n_errors = sum(1 for _ in records.errors())
    except RecordsError as error:
        cause = error.__cause__
        how = _unreadable(cause) if isinstance(cause, (OSError, ValueError, csv.Error)) else "has other columns"
        yield Problem(ERRORS, None, "", how)
    except OSError as error:
        yield Problem(LABEL_NAMES, None, "", _unreadable(error))
    else:
        if n_errors != provenance["errors"]:
            yield Problem(ERRORS, None, "", f"has {n_errors} rows, not the {provenance['errors']} of {PROVENANCE}")


def _table_problems(records: RecordFolder) -> Iterator[Problem]:
    """Whether the tables are byte for byte what was written: the net under all that names a row."""
    for name, sha256 in records.provenance["tables"].items():
        if file_sha256(records.path / name) != sha256:
            yield Problem(name, None, "", f"is not the file whose sha256 {PROVENANCE} holds")


def _tfds_difference(name: str, found: Any, shards: Sequence[dict[str, Any]]) -> str:
    """In which way a file of tensorflow-datasets differs from what the provenance makes it."""
    try:
        lengths = {split["name"]: split["shardLengths"] for split in found["splits"]}
    except (KeyError, TypeError):
        lengths = {}
    for split in SPLITS if name == DATASET_INFO else ():
        expected = [str(shard["examples"]) for shard in shards if shard["split"] == split]
        if lengths.get(split, []) != expected:
            stated = " ".join(map(str, lengths.get(split) or ["none"]))
            return f"its shardLengths of {split} are {stated}; {PROVENANCE} says {' '.join(expected) or 'none'}"
    return f"is not what the labels, front end and shards of {PROVENANCE} make it"


def _unreadable(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def _listed_shard_problems(records: RecordFolder) -> Iterator[Problem]:
    """Whether the shards that the provenance lists are a whole set, and the folder holds no others.

    One that is missing on disk is found by the task that reads it.
    """
    splits = [shard["split"] for shard in records.shards()]
    whole = [shard_name(split, n, splits.count(split)) for split in SPLITS for n in range(splits.count(split))]
    names = [shard["name"] for shard in records.shards()]
    if names != whole:
        odd = sorted(set(names) ^ set(whole))
        yield Problem(PROVENANCE, None, "", f"its list of shards is incomplete or out of order ({', '.join(odd[:3])})")
    for path in sorted(records.path.glob(f"{DATASET}-*")):
        if path.name not in names:
            yield Problem(path.name, None, "", f"is not a shard that {PROVENANCE} lists; move it away")


# --- the manifest


def _manifest_rows(records: RecordFolder) -> Iterator[_Row | Problem]:
    """The rows of the manifest, and the lines that are none.

    Raises:
        RecordsError: it is not there, or not a manifest.
    """
    try:
        # A damaged byte spoils its own row only.
        with open(records.path / MANIFEST, encoding="utf-8", errors="backslashreplace", newline="") as file:
            reader = csv.reader(file)
            columns = tuple(next(reader, ()))
            if columns != MANIFEST_COLUMNS:
                raise RecordsError(f"its columns are {', '.join(columns) or 'none'}, not {', '.join(MANIFEST_COLUMNS)}")
            for cells in reader:
                yield _read_row(cells, reader.line_num)
    except (OSError, csv.Error) as error:
        raise RecordsError(_unreadable(error)) from error


def _read_row(cells: Sequence[str], line: int) -> _Row | Problem:
    if len(cells) != len(MANIFEST_COLUMNS):
        what = f"line {line} has {len(cells)} cells, not {len(MANIFEST_COLUMNS)}"
        return Problem(MANIFEST, None, cells[0] if cells else "", what)
    file, start, end, label, speaker, split, shard, index, _, sha256 = cells
    try:
        if int(index) < 0 or not math.isfinite(float(start)) or not math.isfinite(float(end)):
            raise ValueError(f"{start}, {end}, {index}")
        return _Row(line, file, float(start), float(end), label, speaker, split, shard, int(index), sha256)
    except ValueError as error:
        return Problem(MANIFEST, None, file, f"line {line} has no usable start, end or index ({error})")


class _Survey:
    """What can only be seen over all rows of the manifest, from one pass over them.

    Attributes:
        readable: it is there and is a manifest, from its first line to its last.
        scattered: shards whose rows do not stand together.
        files: the first row of each audio file; empty if they are not asked for.
        problems: what is wrong with it.
    """

    def __init__(self, records: RecordFolder, with_files: bool) -> None:
        self.readable = True
        self.scattered: set[str] = set()
        self.files: dict[str, _Row] = {}
        self.problems: list[Problem] = []
        plan = records.provenance["plan"]
        rule = plan.get("split")
        by_rule = isinstance(rule, dict) and rule.get("rule") == "speakers"
        self._by_speaker = by_rule and not plan.get("given_splits")
        self._of_speaker: dict[str, _Row] = {}
        self._shared: set[str] = set()
        self._number = {shard["name"]: number for number, shard in enumerate(records.shards())}
        self._seen: set[str] = set()
        self._highest = -1
        try:
            self._read(_manifest_rows(records), with_files)
        except RecordsError as error:
            self.readable = False
            self.problems.append(Problem(MANIFEST, None, "", str(error)))

    def _read(self, rows: Iterator[_Row | Problem], with_files: bool) -> None:
        last = ""
        for row in rows:
            if isinstance(row, Problem):
                self.problems.append(row)
                continue
            if row.shard != last:
                self._begin_shard(row)
                last = row.shard
            if self._by_speaker and row.speaker:
                self._note_speaker(row)
            if with_files:
                self._note_file(row)

    def _begin_shard(self, row: _Row) -> None:
        """Rows stand in shard order: those who read examples join them to rows by position."""
        number = self._number.get(row.shard)
        what = None
        if number is None:
            what = f"names this shard, which {PROVENANCE} does not list"
        elif row.shard in self._seen:
            what = "stands apart from the other rows of its shard"
            self.scattered.add(row.shard)
        elif number < self._highest:
            what = "and those after it stand behind the rows of a later shard"
        if what:
            self.problems.append(Problem(row.shard, row.index, row.file, f"line {row.line} of {MANIFEST} {what}"))
        self._seen.add(row.shard)
        self._highest = max(self._highest, -1 if number is None else number)

    def _note_speaker(self, row: _Row) -> None:
        first = self._of_speaker.setdefault(row.speaker, row)
        if first.split == row.split or row.speaker in self._shared:
            return
        self._shared.add(row.speaker)
        what = f"its speaker {row.speaker} is in the split {row.split}, and also in {first.split} ({first.file})"
        self.problems.append(Problem(row.shard, row.index, row.file, what))

    def _note_file(self, row: _Row) -> None:
        first = self.files.setdefault(row.file, row)
        if first.sha256 != row.sha256:
            what = f"lines {first.line} and {row.line} of {MANIFEST} give its audio different sha256s"
            self.problems.append(Problem(row.shard, row.index, row.file, what))


def _repeat_problems(records: RecordFolder) -> Iterator[Problem]:
    """Whether a part of a file is more than one recording: nothing would tell their predictions apart."""
    places = set(repeated(recording_spans(records.manifest())).tolist())
    for place, span in enumerate(recording_spans(records.manifest()) if places else ()):
        if place in places:
            what = f"the part from {span.start} s to {span.end} s is in it twice; build-records --restart keeps one"
            yield Problem(MANIFEST, None, span.file, what)


def _shard_checks(records: RecordFolder, survey: _Survey) -> Iterator[_ShardCheck]:
    """A task for every shard, made while the manifest is read: never all of its rows are held."""
    shards = {shard["name"]: shard for shard in records.shards()}
    to_check = partial(_ShardCheck, records.path, shape=records.front_end.shape, labels=records.labels)
    if not survey.readable:
        yield from (to_check(shard=shard, rows=None) for shard in shards.values())
        return
    scattered: dict[str, list[_Row]] = {name: [] for name in survey.scattered}
    together: list[_Row] = []
    for row in _manifest_rows(records):
        if isinstance(row, Problem) or row.shard not in shards:
            continue
        if row.shard in scattered:
            scattered[row.shard].append(row)
            continue
        if together and together[0].shard != row.shard:
            yield to_check(shard=shards.pop(together[0].shard), rows=tuple(together))
            together = []
        together.append(row)
    if together:
        scattered[together[0].shard] = together
    for name, shard in shards.items():
        yield to_check(shard=shard, rows=tuple(scattered.get(name, ())))


# --- one shard


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
        what = f"{_unreadable(error)}, with its {counted(task.shard['examples'], 'example')}"
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


def _shard_problems(outcome: Outcome[_ShardCheck, _ShardReport], records: RecordFolder) -> list[Problem]:
    name = outcome.task.shard["name"]
    report = outcome.result
    if report is None:
        return [Problem(name, None, "", f"could not be checked: it {outcome.death}")]
    if report.sha256 != outcome.task.shard["sha256"]:
        for other in records.shards():
            if other["sha256"] == report.sha256 and other["bytes"]:
                # Every record then differs from its row: saying so of each would hide this.
                return [Problem(name, None, "", f"holds the bytes of {other['name']}: swapped or copied over")]
    return report.problems


# --- the audio


def _check_audio(sources: Sequence[tuple[_Row, str]]) -> list[Problem]:
    """Compare audio files with the checksums of their rows."""
    problems = []
    for row, path in sources:
        try:
            # Opening a pipe would wait for a writer for ever.
            if os.path.exists(path) and not os.path.isfile(path):
                what = "its audio is no regular file any more"
            elif file_sha256(path) == row.sha256:
                continue
            else:
                what = "its audio has changed since the folder was built"
        except OSError as error:
            what = f"its audio {_unreadable(error)}"
        problems.append(Problem(row.shard, row.index, row.file, what))
    return problems


def _audio_problems(outcome: Outcome[Sequence[tuple[_Row, str]], list[Problem]]) -> list[Problem]:
    if outcome.result is not None:
        return outcome.result
    row, _ = outcome.task[0]
    what = f"its audio and that of {len(outcome.task) - 1} more could not be checked: it {outcome.death}"
    return [Problem(row.shard, row.index, row.file, what)]
