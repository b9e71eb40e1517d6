"""From a plan to a finished record folder: write, continue, finish.

The metadata are made from the shards' notes, and ``provenance.json`` last: it is what says that the
folder is complete.
"""

import csv
import dataclasses
from collections import ChainMap, Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from pathlib import Path
from typing import Any

from ser_batch import __version__
from ser_batch.corpus.table import Recording, Rejection
from ser_batch.errors import AudioError, OutputError, RecordsError
from ser_batch.formatting import part_named, pluralize
from ser_batch.records.folder import (
    ERRORS,
    MANIFEST,
    PROVENANCE,
    RecordFolder,
    Span,
    open_records,
    recording_spans,
    records_fingerprint,
    repeated,
)
from ser_batch.records.manifest import BUILDING, ERROR_COLUMNS, MANIFEST_COLUMNS, note_path, read_note
from ser_batch.records.plan import BuildPlan, ShardTask, planned_row
from ser_batch.records.shards import probe, write_shard
from ser_batch.records.tfds import DATASET, DATASET_INFO, FEATURES_INFO, LABEL_NAMES, tfds_files
from ser_batch.runtime.engine import Engine, crashing_items
from ser_batch.storage.fingerprints import audio_sha256, file_sha256
from ser_batch.storage.outputs import OutputKind, differences, open_output
from ser_batch.storage.writing import open_atomically, write_json, write_rows

_PLANNED = "planned.csv"
_PLANNED_COLUMNS = ("file", "start", "end", "label", "speaker", "split")


@dataclass(frozen=True)
class BuildResult:
    """What became of a build.

    Attributes:
        records: the finished folder.
        was_finished: it had been finished before.
        n_errors: rows of errors.csv.
        warnings: how many recordings have each warning code.
        bases: the folder that relative paths were taken from, by the name of the CSV or list.
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
    """Write a record folder, or continue one that the same plan began.

    Args:
        plan: from `plan_build`.
        folder: the record folder; made if absent.
        engine: where shards are written.
        restart: throw away what an earlier build left in the folder.
        on_progress: called with (recordings done, recordings in all) after each shard.

    Raises:
        OutputError: the folder cannot be written, is in use, or holds something else.
        RecordsError: not one recording could be used.
    """
    folder = folder.absolute()
    with open_output(folder, _KIND, plan.settings, restart, partial(_changes, plan, folder)) as output:
        if output.is_finished:
            return _already_finished(plan, folder, engine)
        if not (output.parts / _PLANNED).exists():
            with open_atomically(output.parts / _PLANNED) as file:
                write_rows(file, chain([_PLANNED_COLUMNS], map(planned_row, plan.recordings)))
        pending = []
        done = 0
        for task in plan.shards:
            task = dataclasses.replace(task, folder=str(folder))
            if note_path(folder, task.name).exists():
                done += len(task.recordings)
            else:
                pending.append(task)
        if done:
            _check_sources(_noted_sources(plan, folder), folder, engine)
        on_progress(done, len(plan.recordings))
        for task in _write_shards(pending, engine):
            done += len(task.recordings)
            on_progress(done, len(plan.recordings))
        _refuse_repeats(plan, folder, engine)
        result = _finish(plan, folder)
        output.finish()
        return result


def _write_shards(pending: Sequence[ShardTask], engine: Engine) -> Iterator[ShardTask]:
    """Write shards, whatever becomes of the workers; each task once it is done."""
    dead = []
    # The largest last shard would leave the other workers idle.
    for outcome in engine.map(write_shard, sorted(pending, key=lambda task: -len(task.recordings))):
        if outcome.death is None:
            yield outcome.task
        else:
            dead.append(outcome.task)
    for task in dead:
        deadly = crashing_items(engine, partial(probe, front_end=task.front_end), tuple(task.recordings))
        refused = tuple((recording, "worker", death) for recording, death in deadly.items())
        spared = dataclasses.replace(task, refused=task.refused + refused)
        for outcome in engine.map(write_shard, [spared]):
            if outcome.death is not None:
                raise OutputError(f"{task.name}: {outcome.death}, on no single recording; try fewer workers")
            yield task


def _refuse_repeats(plan: BuildPlan, folder: Path, engine: Engine) -> None:
    """Take out recordings that turned out to be the same part of a file as one before them in SOURCE.

    So it is where both ask for more than the file has. Only what was read tells how long a file is, so the shards
    of such recordings are written again, without them.
    """
    if all(recording.end_secs is None for recording in plan.recordings):
        return
    places = set(repeated(_written_spans(plan, folder)).tolist())
    if not places:
        return
    spans = {span for place, span in enumerate(_written_spans(plan, folder)) if place in places}
    rewritten = []
    for name, repeats in _repeats(plan, folder, spans).items():
        task = next(task for task in plan.shards if task.name == name)
        failed = {tuple(row[:3]): (row[3], row[4]) for row in read_note(folder, name)["errors"]}
        refused = [(one, *failed[planned_row(one)[:3]]) for one in task.recordings if planned_row(one)[:3] in failed]
        rewritten.append(dataclasses.replace(task, folder=str(folder), refused=(*refused, *repeats)))
    for task in rewritten:
        note_path(folder, task.name).unlink()
    for _ in _write_shards(rewritten, engine):
        pass


def _repeats(plan: BuildPlan, folder: Path, spans: set[Span]) -> dict[str, list[tuple[Recording, str, str]]]:
    """By shard: the recordings that have one of these spans, but the first of each in SOURCE, with stage and reason."""
    found: dict[Span, list[tuple[str, Recording]]] = {}
    for task in plan.shards:
        note = read_note(folder, task.name)
        failed = {tuple(row[:3]) for row in note["errors"]}
        made = (recording for recording in task.recordings if planned_row(recording)[:3] not in failed)
        for recording, span in zip(made, recording_spans(_manifest_rows(note)), strict=True):
            if span in spans:
                found.setdefault(span, []).append((task.name, recording))
    files = {span.file for span in spans}
    place = {planned_row(one)[:3]: at for at, one in enumerate(plan.recordings) if one.file in files}
    repeats: dict[str, list[tuple[Recording, str, str]]] = {}
    for span, rivals in found.items():
        rivals.sort(key=lambda rival: place[planned_row(rival[1])[:3]])
        kept = part_named(*planned_row(rivals[0][1])[:3])
        reason = f"is the same recording as {kept}: both end at {span.end} s; keep one of the two rows"
        for name, recording in rivals[1:]:
            repeats.setdefault(name, []).append((recording, "check", reason))
    return repeats


def _written_spans(plan: BuildPlan, folder: Path) -> Iterator[Span]:
    """Of all recordings that are in shards, in order."""
    for task in plan.shards:
        yield from recording_spans(_manifest_rows(read_note(folder, task.name)))


def _manifest_rows(note: dict[str, Any]) -> Iterator[dict[str, str]]:
    return (dict(zip(MANIFEST_COLUMNS, row, strict=True)) for row in note["rows"])


def _is_ours(name: str) -> bool:
    known = {MANIFEST, ERRORS, PROVENANCE, DATASET_INFO, FEATURES_INFO, LABEL_NAMES, BUILDING}
    return name in known or (name.startswith(f"{DATASET}-") and ".tfrecord-" in name)


_KIND = OutputKind("records", PROVENANCE, BUILDING, _is_ours, lambda folder: open_records(folder).provenance["plan"])


def _already_finished(plan: BuildPlan, folder: Path, engine: Engine) -> BuildResult:
    records = open_records(folder)
    records.shard_paths(records.shards())
    _check_sources(_recorded_sources(plan, records), folder, engine)
    return BuildResult(records, True, records.provenance["errors"], records.provenance["warnings"])


def _changes(plan: BuildPlan, folder: Path, old: dict[str, Any]) -> list[str]:
    """What differs between the plan and that of an earlier build."""
    changed = differences(old, plan.settings, ("front_end", "labels", "label_rule", "split", "shards"))
    if any(old.get(name) != plan.settings[name] for name in ("recordings", "rejections")):
        before = set(_files_before(folder))
        now = {recording.file for recording in plan.recordings} | {rejection.file for rejection in plan.rejections}
        came, went = len(now - before), len(before - now)
        if came or went:
            changed.append(f"the files ({came} came, {went} went)")
        elif not changed:
            changed.append("labels, speakers, splits or parts of the same files")
    return changed


def _files_before(folder: Path) -> Iterator[str]:
    """The files of an earlier build's plan."""
    if (folder / PROVENANCE).exists():
        records = open_records(folder)
        yield from (row["file"] for row in chain(records.manifest(), records.errors()))
    else:
        with open(folder / BUILDING / _PLANNED, encoding="utf-8", newline="") as file:
            yield from (row["file"] for row in csv.DictReader(file))


# Files by their paths, with the sha256 of what was read of each; empty where nothing could be.
_Sources = dict[str, str]


def _noted_sources(plan: BuildPlan, folder: Path) -> Iterator[_Sources]:
    """What each finished shard of an unfinished build was made from."""
    for task in plan.shards:
        if note_path(folder, task.name).exists():
            note = read_note(folder, task.name)
            yield _sources(task, {row[0]: row[-1] for row in [*note["errors"], *note["rows"]]})


def _recorded_sources(plan: BuildPlan, records: RecordFolder) -> Iterator[_Sources]:
    """What each shard of a finished folder was made from."""
    # What was refused unread, another part of the same file perhaps, has no sha256.
    errors = {row["file"]: row["sha256"] for row in records.errors() if row["stage"] not in ("list", "label")}
    tasks = {task.name: task for task in plan.shards}
    for name, rows in groupby(records.manifest(), lambda row: row["shard"]):
        if task := tasks.pop(name, None):
            yield _sources(task, ChainMap({row["file"]: row["sha256"] for row in rows}, errors))
    for task in tasks.values():
        yield _sources(task, errors)


def _sources(task: ShardTask, sha256_of: Mapping[str, str]) -> _Sources:
    return {recording.path: sha256_of[recording.file] for recording in task.recordings if recording.file in sha256_of}


def _check_sources(sources: Iterable[_Sources], folder: Path, engine: Engine) -> None:
    """Raise an OutputError if the audio that shards were made from is not what it was."""
    changed: set[str] = set()
    for outcome in engine.map(_changed, sources):
        changed.update(outcome.result or ())
    if changed:
        raise OutputError(
            f"{folder}: {len(changed)} audio files changed since they were read; give --restart to build it anew"
        )


def _changed(sources: _Sources) -> list[str]:
    return [path for path, sha256 in sources.items() if _sha256_now(path) != sha256]


def _sha256_now(path: str) -> str:
    try:
        return audio_sha256(path)
    except AudioError:
        return ""


def _finish(plan: BuildPlan, folder: Path) -> BuildResult:
    """Make the metadata from the notes of all shards; the provenance last."""
    shards: list[dict[str, Any]] = []
    warnings: Counter[str] = Counter()
    n_errors = 0
    with open_atomically(folder / MANIFEST) as manifest, open_atomically(folder / ERRORS) as errors:
        write_rows(manifest, [MANIFEST_COLUMNS])
        write_rows(errors, [ERROR_COLUMNS, *map(Rejection.row, plan.rejections)])
        n_errors += len(plan.rejections)
        for task in plan.shards:
            note = read_note(folder, task.name)
            write_rows(manifest, note["rows"])
            write_rows(errors, note["errors"])
            n_errors += len(note["errors"])
            warnings.update(note["warnings"])
            shards.append(note["shard"])
    n_examples = sum(shard["examples"] for shard in shards)
    if not n_examples:
        raise RecordsError(
            f"{folder}: not one of {pluralize(n_errors, 'recording')} could be used; "
            f"{folder / ERRORS} says why for each"
        )
    front_end = plan.shards[0].front_end
    with open_atomically(folder / LABEL_NAMES) as file:
        file.write("".join(f"{label}\n" for label in plan.labels))
    for name, content in tfds_files(front_end.shape, plan.labels, shards).items():
        write_json(folder / name, content)
    provenance = {
        "kind": "records",
        "version": __version__,
        "fingerprint": records_fingerprint(front_end, plan.labels, shards),
        "front_end": front_end.to_json(),
        "front_end_fingerprint": front_end.fingerprint,
        "labels": plan.labels,
        "plan": plan.settings,
        "shards": shards,
        "warnings": warnings,
        "errors": n_errors,
        "tables": {name: file_sha256(folder / name) for name in (MANIFEST, ERRORS)},
    }
    write_json(folder / PROVENANCE, provenance)
    return BuildResult(open_records(folder), False, n_errors, dict(warnings))
