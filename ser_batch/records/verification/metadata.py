"""Checks of a record folder's metadata, and checks across the parts of its manifest."""

import json
from bisect import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ser_batch.corpus.splits import SPLITS
from ser_batch.errors import RecordsError
from ser_batch.formatting import pluralize
from ser_batch.records.folder import (
    PROVENANCE,
    RecordFolder,
    Shard,
    find_repeats,
    recording_parts,
    records_fingerprint,
)
from ser_batch.records.manifest import MANIFEST, REJECTED, examples, part_path, read_part
from ser_batch.records.tfds import DATASET, DATASET_INFO, LABEL_NAMES, shard_name, tfds_files
from ser_batch.storage.fingerprints import file_sha256


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem; as text, one line.

    Attributes:
        shard: the shard or metadata file with the problem.
        index: the record's number in its shard, from 0; None if the problem is not about one record.
        file: the recording's key; empty if the problem is not about one recording.
        what: description of the problem.
    """

    shard: str
    index: int | None
    file: str
    what: str

    def __str__(self) -> str:
        record = "" if self.index is None else f"record {self.index}"
        place = ", ".join(part for part in (self.shard, record, self.file) if part)
        return f"{place}: {self.what}".replace("\r", "\\r").replace("\n", "\\n")


# The longest list of problems that a task returns, in characters.
_MAX_CHARACTERS = 10_000


def limit_problems(problems: Sequence[Problem]) -> list[Problem]:
    """The problems of one task; a long list is cut, and its last entry has the number of the others."""
    ends = list(accumulate(len(str(problem)) + 50 for problem in problems))
    n_listed = bisect(ends, _MAX_CHARACTERS)
    if n_listed == len(problems):
        return [*problems]
    last = problems[n_listed]
    more = pluralize(len(problems) - n_listed - 1, "more problem")
    return [*problems[:n_listed], replace(last, what=f"{last.what}; and {more}")]


def part_name(shard: str) -> str:
    """Name of a part of the manifest in messages."""
    return str(part_path(Path(), shard))


def read_failure(error: Exception) -> str:
    """The reason that a file cannot be checked."""
    if isinstance(error, FileNotFoundError):
        return "is missing"
    return f"cannot be read ({getattr(error, 'strerror', None) or error})"


def metadata_problems(records: RecordFolder) -> Iterator[Problem]:
    """Check that the metadata files match the provenance, and that the provenance is consistent."""
    provenance, labels, shards = records.provenance, records.labels, records.shards()
    if records_fingerprint(records.front_end, labels, shards) != records.fingerprint:
        yield Problem(
            PROVENANCE, None, "", "its fingerprint does not match the front end, labels and shards that it lists"
        )
    if records.front_end.fingerprint != provenance.front_end_fingerprint:
        yield Problem(PROVENANCE, None, "", "its front_end_fingerprint does not match its front_end")
    for name, expected in tfds_files(records.front_end.shape, labels, shards).items():
        try:
            found = json.loads((records.path / name).read_bytes())
        except (OSError, ValueError) as error:
            yield Problem(name, None, "", read_failure(error))
            continue
        if found != expected:
            yield Problem(name, None, "", _tfds_difference(name, found, shards))
    try:
        if (records.path / LABEL_NAMES).read_bytes() != "".join(f"{label}\n" for label in labels).encode():
            yield Problem(LABEL_NAMES, None, "", f"does not hold the labels of {PROVENANCE}: {', '.join(labels)}")
    except OSError as error:
        yield Problem(LABEL_NAMES, None, "", read_failure(error))


def _tfds_difference(name: str, found: Any, shards: Sequence[Shard]) -> str:
    """The difference of a tensorflow-datasets file from its content by the provenance."""
    try:
        lengths = {split["name"]: split["shardLengths"] for split in found["splits"]}
    except (KeyError, TypeError):
        lengths = {}
    for split in SPLITS if name == DATASET_INFO else ():
        expected = [str(shard.examples) for shard in shards if shard.split == split]
        if lengths.get(split, []) != expected:
            stated = " ".join(map(str, lengths.get(split) or ["none"]))
            return f"its shardLengths of {split} are {stated}; {PROVENANCE} has {' '.join(expected) or 'none'}"
    return f"does not match the labels, front end and shards of {PROVENANCE}"


def listed_file_problems(records: RecordFolder) -> Iterator[Problem]:
    """Check that the provenance lists a complete set of shards, and that the folder has no other shards or parts.

    A shard that is missing on disk is found by the task that reads it.
    """
    splits = [shard.split for shard in records.shards()]
    whole = [shard_name(split, n, splits.count(split)) for split in SPLITS for n in range(splits.count(split))]
    names = [shard.name for shard in records.shards()]
    if names != whole:
        odd = sorted(set(names) ^ set(whole))
        yield Problem(PROVENANCE, None, "", f"its list of shards is incomplete or out of order ({', '.join(odd[:3])})")
    for path in sorted(records.path.glob(f"{DATASET}-*")):
        if path.name not in names:
            yield Problem(path.name, None, "", f"is not a shard that {PROVENANCE} lists; move it away")
    parts = {part_path(records.path, name) for name in (*names, REJECTED)}
    for path in sorted((records.path / MANIFEST).glob("*")):
        if path not in parts:
            what = f"belongs to no shard that {PROVENANCE} lists; move it away"
            yield Problem(f"{MANIFEST}/{path.name}", None, "", what)


@dataclass(frozen=True, slots=True)
class AudioFile:
    """An audio file that examples were made from.

    Attributes:
        shard, index: the first such example.
        file: the recording's key.
        sha256: of its bytes.
    """

    shard: str
    index: int
    file: str
    sha256: str


@dataclass
class Survey:
    """Results of the checks across all unchanged parts of the manifest.

    Attributes:
        problems: the problems found.
        unchanged: names of the shards whose part has its original checksum.
        files: the audio files by their keys; empty if not needed.
    """

    problems: list[Problem] = field(default_factory=list)
    unchanged: set[str] = field(default_factory=set)
    files: dict[str, AudioFile] = field(default_factory=dict)


def survey_manifest(records: RecordFolder, with_files: bool) -> Survey:
    """Read all unchanged parts once, and check errors, speakers and, if ``with_files``, audio files."""
    found = Survey()
    rule = records.provenance.plan.get("split")
    by_rule = isinstance(rule, dict) and rule.get("rule") == "speakers"
    by_speaker = by_rule and not records.provenance.plan.get("given_splits")
    speakers: dict[str, tuple[str, str]] = {}
    n_errors = 0
    rejected = _unchanged_part(records, REJECTED, records.provenance.rejected_sha256)
    if isinstance(rejected, str):
        found.problems.append(Problem(part_name(REJECTED), None, "", rejected))
    else:
        n_errors += len(rejected)
    for shard in records.shards():
        part = _unchanged_part(records, shard.name, shard.manifest_sha256)
        if isinstance(part, str):  # reported by the task that reads the shard
            continue
        rows = examples(part)
        n_errors += len(part) - len(rows)
        found.unchanged.add(shard.name)
        if by_speaker:
            found.problems += _shared_speakers(rows, shard, speakers)
        if with_files:
            found.problems += _note_files(rows, found.files)
    if len(found.unchanged) == len(records.shards()) and not found.problems and n_errors != records.provenance.errors:
        what = f"counts {records.provenance.errors} unusable recordings; the manifest has {n_errors} such rows"
        found.problems.append(Problem(PROVENANCE, None, "", what))
    return found


def _unchanged_part(records: RecordFolder, name: str, sha256: str) -> pa.Table | str:
    """A part with its original checksum, or the reason that there is none."""
    path = part_path(records.path, name)
    try:
        if file_sha256(path) != sha256:
            return f"is not the file whose sha256 {PROVENANCE} holds"
        return read_part(path)
    except OSError as error:
        return read_failure(error)
    except RecordsError as error:
        return str(error)


def _shared_speakers(rows: pa.Table, shard: Shard, speakers: dict[str, tuple[str, str]]) -> Iterator[Problem]:
    """Problems for the speakers of a shard who are also in another split, one for each speaker.

    Args:
        rows: of the shard's examples.
        shard: the shard.
        speakers: split and first file of each earlier speaker; the shard's speakers are added.
    """
    for speaker in rows["speaker"].unique().to_pylist():
        row = rows.slice(rows["speaker"].index(speaker).as_py(), 1).to_pylist()[0]
        split, file = speakers.setdefault(speaker, (shard.split, row["file"]))
        if speaker and split not in (shard.split, ""):
            what = f"its speaker {speaker} is in the split {shard.split}, and also in {split} ({file})"
            yield Problem(shard.name, row["index"], row["file"], what)
            speakers[speaker] = ("", file)


def _note_files(rows: pa.Table, files: dict[str, AudioFile]) -> Iterator[Problem]:
    for row in rows.select(["shard", "index", "file", "sha256"]).to_pylist():
        audio = AudioFile(**row)
        first = files.setdefault(audio.file, audio)
        if first.sha256 != audio.sha256:
            same = f"record {first.index} of {first.shard}, which has the same file"
            what = f"the sha256 of its audio is different from that of {same}"
            yield Problem(audio.shard, audio.index, audio.file, what)


def repeat_problems(records: RecordFolder) -> Iterator[Problem]:
    """Check that no part of a file is more than one recording: their predictions could not be distinguished."""
    columns = ("file", "start", "end", "recording")
    repeats, _ = find_repeats(records.manifest(*columns))
    for shard in records.shards() if len(repeats) else ():
        for part in map(recording_parts, records.manifest(*columns, shards=[shard])):
            for row in part.filter(pa.array(np.isin(part["recording"].to_numpy(), repeats))).to_pylist():
                what = f"the part from {row['start_min']} s to {row['end_max']} s is in the folder twice"
                advice = "build-records --restart keeps one"
                yield Problem(part_name(shard.name), None, row["file"], f"{what}; {advice}")
