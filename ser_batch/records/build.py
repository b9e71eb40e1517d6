"""Build a record folder from a plan, or resume an interrupted build.

The metadata files are written from the manifest's parts. ``provenance.json`` is written last: a folder with it is
complete.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ser_batch import __version__
from ser_batch.corpus.splits import stable_keys
from ser_batch.corpus.table import paths, recordings, selected, text_keys
from ser_batch.errors import AudioError, OutputError, RecordsError
from ser_batch.formatting import part_named, pluralize
from ser_batch.records.folder import (
    BUILDING,
    EARLIER_TABLES,
    PROVENANCE,
    Provenance,
    RecordFolder,
    Shard,
    find_repeats,
    open_records,
    recording_parts,
    records_fingerprint,
)
from ser_batch.records.manifest import (
    MANIFEST,
    REJECTED,
    examples,
    failed,
    open_part,
    part_path,
    rejection_row,
    shard_facts,
    write_part,
)
from ser_batch.records.plan import BuildPlan, PlannedShard, ShardTask, planned_row
from ser_batch.records.shards import probe, write_shard
from ser_batch.records.tfds import DATASET, DATASET_INFO, FEATURES_INFO, LABEL_NAMES, tfds_files
from ser_batch.runtime.engine import Engine, crashing_items
from ser_batch.storage.fingerprints import audio_sha256, file_sha256
from ser_batch.storage.outputs import OutputKind, differences, open_output
from ser_batch.storage.writing import open_atomically, write_json

_FILES = "files.parquet"
_FILES_SCHEMA = pa.schema({"file": pa.string()})
_FILES_AT_ONCE = 1 << 17


@dataclass(frozen=True)
class BuildResult:
    """Result of a build.

    Attributes:
        records: the finished folder.
        was_finished: whether the folder was already finished before this run.
        n_errors: number of unusable recordings.
        warnings: number of recordings with each warning code.
        bases: the folder that relative paths are resolved against, by the name of the CSV or list.
    """

    records: RecordFolder
    was_finished: bool
    n_errors: int
    warnings: dict[str, int]
    bases: dict[str, str] = field(default_factory=dict)


def build_records(
    plan: BuildPlan,
    folder: Path,
    engine: Engine,
    restart: bool = False,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> BuildResult:
    """Write a record folder, or resume an interrupted build of the same plan.

    Args:
        plan: from `plan_build`.
        folder: the record folder; created if missing.
        engine: runs the tasks that write shards.
        restart: delete the files of an earlier build in the folder.
        on_progress: called with (recordings done, total recordings) after each shard.

    Raises:
        OutputError: the folder cannot be written, is in use, or holds other files.
        RecordsError: no recording is usable.
    """
    folder = folder.absolute()
    with open_output(folder, _KIND, plan.settings, restart, partial(_changes, plan, folder)) as output:
        if output.is_finished:
            return _already_finished(plan, folder, engine)
        if not (output.parts / _FILES).exists():
            write_files(output.parts / _FILES, planned_files(plan))
        (folder / MANIFEST).mkdir(exist_ok=True)
        finished: list[PlannedShard] = []
        pending: list[PlannedShard] = []
        for shard in plan.shards:
            (finished if part_path(folder, shard.name).exists() else pending).append(shard)
        _check_sources(plan, folder, finished, engine)
        done = sum(len(shard.rows) for shard in finished)
        on_progress(done, len(plan.recordings))
        for n_written in _write_shards(plan, folder, pending, engine):
            done += n_written
            on_progress(done, len(plan.recordings))
        _remove_repeats(plan, folder, engine)
        result = write_metadata(plan, folder)
        output.finish()
        return result


# Recordings that are not decoded, as in `ShardTask.refused`, by the name of the shard.
_Refused = Mapping[str, Mapping[int, tuple[str, str]]]


def _write_shards(
    plan: BuildPlan, folder: Path, pending: Sequence[PlannedShard], engine: Engine, refused: _Refused | None = None
) -> Iterator[int]:
    """Write shards, and yield the number of recordings of each finished one.

    If a worker crashes, the shard is written again without the recordings that crash it.
    """
    failed: list[ShardTask] = []
    # Largest first: a large shard at the end would leave the other workers idle.
    largest_first = sorted(pending, key=lambda shard: -len(shard.rows))
    tasks = (plan.task(shard, folder, (refused or {}).get(shard.name, {})) for shard in largest_first)
    for outcome in engine.map(write_shard, tasks):
        if outcome.failure is None:
            yield len(outcome.task.recordings)
        else:
            failed.append(outcome.task)
    for task in failed:
        crashing = crashing_items(engine, partial(probe, front_end=task.front_end), task.numbered())
        crashed = {number: ("worker", failure) for (number, _), failure in crashing.items()}
        spared = replace(task, refused={**task.refused, **crashed})
        for outcome in engine.map(write_shard, [spared]):
            if outcome.failure is not None:
                raise OutputError(
                    f"{task.name}: {outcome.failure}, but no single recording causes it; try fewer workers"
                )
            yield len(task.recordings)


def _remove_repeats(plan: BuildPlan, folder: Path, engine: Engine) -> None:
    """Remove recordings that are the same part of a file as an earlier recording in SOURCE.

    This occurs if both request an end beyond the end of the file. The length of a file is known only after decoding,
    so the shards of such recordings are written again without them.
    """
    if plan.recordings["end"].null_count == len(plan.recordings):
        return
    repeats, firsts = find_repeats(examples(open_part(folder, shard.name)) for shard in plan.shards)
    if not len(repeats):
        return
    first_of = dict(zip(repeats.tolist(), firsts.tolist(), strict=True))
    refused: dict[str, dict[int, tuple[str, str]]] = {}
    rewritten = [shard for shard in plan.shards if np.isin(shard.rows, repeats).any()]
    for shard in rewritten:
        rows = open_part(folder, shard.name)
        columns = (failed(rows)[name].to_pylist() for name in ("recording", "stage", "error"))
        refused[shard.name] = {number: (stage, reason) for number, stage, reason in zip(*columns, strict=True)}
        for part in recording_parts(examples(rows)).to_pylist():
            if (first := first_of.get(part["recording"])) is not None:
                (kept,) = recordings(plan.recordings.slice(first, 1))
                reason = (
                    f"is the same recording as {part_named(*planned_row(kept)[:3])}: both end at {part['end_max']} s; "
                    "keep one of the two rows"
                )
                refused[shard.name][part["recording"]] = ("check", reason)
    for shard in rewritten:
        part_path(folder, shard.name).unlink()
    for _ in _write_shards(plan, folder, rewritten, engine, refused):
        pass


def planned_files(plan: BuildPlan) -> Iterator[str]:
    """The names of all files of a plan."""
    yield from (recording.file for recording in recordings(plan.recordings))
    yield from (rejection.file for rejection in plan.rejections)


def _is_output(name: str) -> bool:
    known = {MANIFEST, PROVENANCE, DATASET_INFO, FEATURES_INFO, LABEL_NAMES, BUILDING, *EARLIER_TABLES}
    return name in known or (name.startswith(f"{DATASET}-") and ".tfrecord-" in name)


_KIND = OutputKind("records", PROVENANCE, BUILDING, _is_output, lambda folder: open_records(folder).provenance.plan)


def _already_finished(plan: BuildPlan, folder: Path, engine: Engine) -> BuildResult:
    records = open_records(folder)
    records.shard_paths(records.shards())
    next(records.errors())  # raises if the part is missing

    _check_sources(plan, folder, plan.shards, engine)
    return BuildResult(records, True, records.provenance.errors, records.provenance.warnings)


def _changes(plan: BuildPlan, folder: Path, old: dict[str, Any]) -> list[str]:
    """Differences between the plan and that of an earlier build."""
    changed = differences(old, plan.settings, ("front_end", "labels", "label_rule", "split", "shards"))
    if any(old.get(name) != plan.settings[name] for name in ("recordings", "rejections")):
        before, now = text_keys(_previous_files(folder)), text_keys(planned_files(plan))
        added, removed = (len(np.setdiff1d(one, other)) for one, other in ((now, before), (before, now)))
        if added or removed:
            changed.append(f"the files ({added} added, {removed} removed)")
        elif not changed:
            changed.append("labels, speakers, splits or parts of the same files")
    return changed


def write_files(path: Path, files: Iterator[str]) -> None:
    """Write the names of the planned files, with which a later build compares its own."""
    with open_atomically(path, "wb") as file, pq.ParquetWriter(file, _FILES_SCHEMA) as writer:
        while some := list(islice(files, _FILES_AT_ONCE)):
            writer.write_table(pa.table({"file": some}, _FILES_SCHEMA))


def _previous_files(folder: Path) -> Iterator[str]:
    """The files of an earlier build's plan."""
    if (folder / PROVENANCE).exists():
        records = open_records(folder)
        tables = [*records.manifest("file"), *records.errors()]
    else:
        tables = [pq.read_table(folder / BUILDING / _FILES)]
    for table in tables:
        yield from table["file"].to_pylist()


def _check_sources(plan: BuildPlan, folder: Path, shards: Sequence[PlannedShard], engine: Engine) -> None:
    """Raise an OutputError if audio files changed since shards were written."""
    changed: set[int] = set()
    for outcome in engine.map(_changed, (_sources(plan, folder, shard) for shard in shards)):
        changed.update(outcome.result.tolist() if outcome.result is not None else ())
    if changed:
        raise OutputError(
            f"{folder}: {len(changed)} audio files changed since they were read; give --restart to build it again"
        )


def _sources(plan: BuildPlan, folder: Path, shard: PlannedShard) -> dict[str, str]:
    """The audio of a finished shard: path to the sha256 at build time; empty if the file was unreadable."""
    part = open_part(folder, shard.name, ["recording", "sha256"])
    sha256_of: dict[int, str] = dict(zip(*(part[name].to_pylist() for name in part.column_names), strict=True))
    shard_paths = paths(selected(plan.recordings, shard.rows))
    return {path: sha256_of[number] for number, path in zip(shard.rows.tolist(), shard_paths, strict=True)}


def _changed(sources: dict[str, str]) -> NDArray[np.uint64]:
    """Keys of the files that changed since the build; not their paths, which may exceed the size of a result."""
    return stable_keys(0, (path for path, sha256 in sources.items() if _sha256_now(path) != sha256))


def _sha256_now(path: str) -> str:
    try:
        return audio_sha256(path)
    except AudioError:
        return ""


def write_metadata(plan: BuildPlan, folder: Path) -> BuildResult:
    """Write the metadata from the manifest's parts; the provenance last."""
    write_part(part_path(folder, REJECTED), map(rejection_row, plan.rejections), {})
    warnings: Counter[str] = Counter()
    n_errors = len(plan.rejections)
    shards = []
    for shard in plan.shards:
        part = open_part(folder, shard.name, ["window", "warnings", "error"])
        shards.append(_written_shard(folder, shard, part))
        n_errors += len(part) - shards[-1].examples
        windows = zip(part["window"].to_pylist(), part["warnings"].to_pylist(), strict=True)
        warnings.update(code for window, codes in windows if window == 0 for code in codes.split())
    if not any(shard.examples for shard in shards):
        raise RecordsError(
            f"{folder}: not one of {pluralize(n_errors, 'recording')} could be used; "
            f"run ser-batch info {folder} --errors to list the reasons"
        )
    with open_atomically(folder / LABEL_NAMES) as file:
        file.write("".join(f"{label}\n" for label in plan.labels))
    for name, content in tfds_files(plan.front_end.shape, plan.labels, shards).items():
        write_json(folder / name, content)
    provenance = Provenance(
        kind="records",
        version=__version__,
        fingerprint=records_fingerprint(plan.front_end, plan.labels, shards),
        front_end=plan.front_end,
        front_end_fingerprint=plan.front_end.fingerprint,
        labels=plan.labels,
        plan=plan.settings,
        shards=tuple(shards),
        rejected_sha256=file_sha256(part_path(folder, REJECTED)),
        errors=n_errors,
        warnings=dict(warnings),
    )
    write_json(folder / PROVENANCE, provenance.to_json())
    return BuildResult(open_records(folder), False, n_errors, dict(warnings))


def _written_shard(folder: Path, shard: PlannedShard, part: pa.Table) -> Shard:
    facts = shard_facts(part)
    return Shard(
        name=shard.name,
        split=shard.split,
        examples=len(examples(part)),
        bytes=int(facts["shard_bytes"]),
        sha256=facts["shard_sha256"],
        manifest_sha256=file_sha256(part_path(folder, shard.name)),
    )
