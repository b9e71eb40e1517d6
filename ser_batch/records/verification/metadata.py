"""Checks of a record folder's metadata and manifest."""

import csv
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.splits import SPLITS
from ser_batch.errors import FrontEndError, RecordsError
from ser_batch.records.folder import ERRORS, MANIFEST, PROVENANCE, RecordFolder, records_fingerprint
from ser_batch.records.manifest import MANIFEST_COLUMNS
from ser_batch.records.tfds import DATASET, DATASET_INFO, LABEL_NAMES, shard_name, tfds_files
from ser_batch.storage.fingerprints import file_sha256

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
