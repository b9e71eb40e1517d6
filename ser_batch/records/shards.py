"""From recordings to a finished record folder: plan, write, resume.

The plan, which recording goes to which shard, is fixed before work starts and is a function of the
input alone. A shard is one task. A worker writes it whole, then a note of what it holds into
``.building/``; whatever has its note is never done again. The metadata are made from the notes, and
``provenance.json`` last: it is what says that the folder is complete.
"""

import csv
import dataclasses
import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any

from ser_batch import __version__
from ser_batch.audio.corpora import Labelled
from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.recordings import Recording, Rejection
from ser_batch.audio.windows import LogMelWindows
from ser_batch.errors import AudioError, OutputError, RecordsError
from ser_batch.files import (
    disk_errors_named,
    file_sha256,
    json_fingerprint,
    open_atomically,
    output_folder,
    write_json,
)
from ser_batch.records.examples import Example, serialize, write_record
from ser_batch.records.layout import (
    BUILDING,
    DATASET,
    DATASET_INFO,
    ERROR_COLUMNS,
    ERRORS,
    FEATURES_INFO,
    LABEL_NAMES,
    MANIFEST,
    MANIFEST_COLUMNS,
    PROVENANCE,
    RecordFolder,
    open_records,
    records_fingerprint,
    shard_name,
    tfds_files,
)
from ser_batch.records.splits import SPLITS, SplitPlan, assign_splits, split_warnings, stable_order
from ser_batch.tasks import Engine, deadly_items, expect_progress

# A few recordings a shard waste open files; many waste work when a build is cut short.
_MIN_PER_SHARD = 32
_MAX_PER_SHARD = 1000
_WANTED_SHARDS = 64

_PLAN = "plan.json"
_PLANNED = "planned.csv"
_PLANNED_COLUMNS = ("file", "start", "end", "label", "speaker", "split")


@dataclass(frozen=True)
class BuildOptions:
    """What is asked of a build, beside the recordings.

    Attributes:
        front_end: how waveforms become log-mels.
        split: how recordings are divided.
        num_shards: shards per split; None: by the number of recordings.
    """

    front_end: FrontEnd
    split: SplitPlan
    num_shards: int | None = None


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: all a worker needs to know.

    Attributes:
        folder: the record folder.
        name: the shard's file name.
        split: the split it belongs to.
        front_end: how waveforms become log-mels.
        labels: label names in order.
        recordings: what goes into it, in order.
        deadly: recordings not to touch, as they end the worker, and how.
    """

    folder: str
    name: str
    split: str
    front_end: FrontEnd
    labels: tuple[str, ...]
    recordings: tuple[Recording, ...]
    deadly: tuple[tuple[Recording, str], ...] = ()


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides what a finished folder holds.

    Attributes:
        labels: label names, sorted.
        recordings: in SOURCE's order, each with label and split.
        rejections: inputs that cannot be used, known before any audio is read.
        shards: the tasks, for a folder yet to be named.
        settings: what must be equal for a build to be continued, as JSON.
        warnings: what a user should know of the splits.
    """

    labels: tuple[str, ...]
    recordings: list[Recording]
    rejections: list[Rejection]
    shards: list[ShardTask]
    settings: dict[str, Any]
    warnings: list[str]


@dataclass(frozen=True)
class BuildResult:
    """What became of a build.

    Attributes:
        records: the finished folder.
        was_finished: it had been finished before.
        n_errors: rows of errors.csv.
        warnings: how many recordings have each warning code.
    """

    records: RecordFolder
    was_finished: bool
    n_errors: int
    warnings: dict[str, int]


def plan_build(labelled: Labelled, options: BuildOptions) -> BuildPlan:
    """Fix which recording goes to which shard.

    Raises:
        LabelError: a recording's given split is unknown.
    """
    recordings = assign_splits(labelled.recordings, options.split)
    labels = tuple(sorted({recording.label or "" for recording in recordings}))
    shards = []
    for split in SPLITS:
        of_split = [recording for recording in recordings if recording.split == split]
        # Shuffled once, so that shards, read in order, hold labels and speakers mixed.
        of_split.sort(key=lambda r: stable_order(options.split.seed, f"{r.file}\0{r.start_secs}\0{r.end_secs}"))
        number = min(options.num_shards or _shards_for(len(of_split)), len(of_split))
        for index in range(number):
            part = of_split[index * len(of_split) // number : (index + 1) * len(of_split) // number]
            name = shard_name(split, index, number)
            shards.append(ShardTask("", name, split, options.front_end, labels, tuple(part)))
    settings = {
        "front_end": options.front_end.to_json(),
        "labels": list(labels),
        "label_rule": labelled.rule,
        "split": dataclasses.asdict(options.split) | {"fractions": list(options.split.fractions)},
        "shards": Counter(task.split for task in shards),
        "recordings": json_fingerprint([_planned_row(recording) for recording in recordings]),
        "rejections": json_fingerprint([dataclasses.astuple(rejection) for rejection in labelled.rejections]),
    }
    return BuildPlan(
        labels, recordings, labelled.rejections, shards, settings, split_warnings(recordings, options.split)
    )


def _shards_for(n_recordings: int) -> int:
    per_shard = min(max(n_recordings // _WANTED_SHARDS, _MIN_PER_SHARD), _MAX_PER_SHARD)
    return -(-n_recordings // per_shard)


def _planned_row(recording: Recording) -> tuple[str, ...]:
    end = "" if recording.end_secs is None else repr(recording.end_secs)
    start = repr(recording.start_secs)
    return recording.file, start, end, recording.label or "", recording.speaker or "", recording.split or ""


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
    with output_folder(folder), disk_errors_named(folder):
        if restart:
            _throw_away(folder)
        if (folder / PROVENANCE).exists():
            return _already_finished(plan, folder, engine)
        _begin(plan, folder)
        pending = []
        done = 0
        for task in plan.shards:
            task = dataclasses.replace(task, folder=str(folder))
            if _note_path(folder, task.name).exists():
                done += len(task.recordings)
            else:
                pending.append(task)
        if done:
            _check_sources(plan, _noted_sha256s(plan, folder), folder, engine)
        on_progress(done, len(plan.recordings))
        for task in _write_shards(pending, engine):
            done += len(task.recordings)
            on_progress(done, len(plan.recordings))
        return _finish(plan, folder)


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
        probe = partial(_probe, front_end=task.front_end)
        deadly = deadly_items(engine, probe, task.recordings)
        spared = dataclasses.replace(task, deadly=tuple(deadly.items()))
        for outcome in engine.map(write_shard, [spared]):
            if outcome.death is not None:
                raise OutputError(f"{task.name}: its worker {outcome.death}, on no single recording; try fewer workers")
            yield task


def _probe(recordings: Sequence[Recording], front_end: FrontEnd) -> None:
    for recording in recordings:
        try:
            for _ in LogMelWindows(recording, front_end):
                expect_progress()
        except AudioError:
            pass
        finally:
            expect_progress(0)


def write_shard(task: ShardTask) -> None:
    """Write one shard and the note of what it holds. The same task gives the same bytes."""
    path = Path(task.folder) / task.name
    note = _ShardNote(task)
    with disk_errors_named(path):
        with open_atomically(path, "wb") as file:
            for recording in task.recordings:
                note.add(recording, file)
        write_json(_note_path(path.parent, task.name), note.content(path))


class _ShardNote:
    """Collects what a shard holds while it is written."""

    def __init__(self, task: ShardTask) -> None:
        self._task = task
        self._deadly = dict(task.deadly)
        self._label_index = {label: index for index, label in enumerate(task.labels)}
        self._rows: list[list[str]] = []
        self._errors: list[tuple[str, ...]] = []
        self._warnings: Counter[str] = Counter()

    def add(self, recording: Recording, file: IO[bytes]) -> None:
        """Write a recording's examples; if it turns out to be unusable, take them back."""
        sha256 = ""
        begin, n_rows = file.tell(), len(self._rows)
        try:
            if recording in self._deadly:
                raise AudioError("worker", self._deadly[recording])
            sha256 = _audio_sha256(recording.path)
            windows = LogMelWindows(recording, self._task.front_end)
            expect_progress()
            for window in windows:
                start_secs, end_secs = round(window.start_secs, 6), round(window.end_secs, 6)
                example = Example(
                    window.log_mel,
                    self._label_index[recording.label or ""],
                    recording.file,
                    recording.speaker or "",
                    start_secs,
                    end_secs,
                )
                write_record(file, serialize(example))
                self._rows.append([repr(start_secs), repr(end_secs)])
                expect_progress()
        except AudioError as error:
            file.seek(begin)
            file.truncate()
            del self._rows[n_rows:]
            self._errors.append((recording.file, error.stage, error.reason, sha256))
        else:
            duration = repr(round(windows.duration_secs, 6))
            for index in range(n_rows, len(self._rows)):
                start, end = self._rows[index]
                known = [recording.label or "", recording.speaker or "", self._task.split, self._task.name]
                self._rows[index] = [recording.file, start, end, *known, str(index), duration, sha256]
            self._warnings.update(windows.warnings)
        finally:
            expect_progress(0)

    def content(self, path: Path) -> dict[str, Any]:
        """The note, once the shard is on disk."""
        shard = {
            "name": path.name,
            "split": self._task.split,
            "examples": len(self._rows),
            "bytes": path.stat().st_size,
            "sha256": file_sha256(path),
        }
        return {"shard": shard, "rows": self._rows, "errors": self._errors, "warnings": self._warnings}


def _audio_sha256(path: str) -> str:
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


def _note_path(folder: Path, name: str) -> Path:
    return folder / BUILDING / f"{name}.json"


def _read_note(folder: Path, name: str) -> dict[str, Any]:
    note: dict[str, Any] = json.loads(_note_path(folder, name).read_text(encoding="utf-8"))
    return note


# --- beginning, finishing, running again


def _begin(plan: BuildPlan, folder: Path) -> None:
    """Write down the plan, or see that the folder's unfinished build has the same."""
    building = folder / BUILDING
    if (building / _PLAN).exists():
        begun = json.loads((building / _PLAN).read_text(encoding="utf-8"))
        with open(building / _PLANNED, encoding="utf-8", newline="") as file:
            _refuse_other_plan(plan, begun, folder, list(csv.DictReader(file)))
        for leftover in [*folder.glob(".*.partial"), *building.glob(".*.partial")]:
            leftover.unlink(missing_ok=True)
        return
    if odd := _foreign_files(folder):
        raise OutputError(
            f"{folder}: holds {len(odd)} files that are no records ({', '.join(odd[:3])}); "
            "name an empty folder with --out"
        )
    building.mkdir(exist_ok=True)
    with open_atomically(building / _PLANNED) as file:
        _write_rows(file, _PLANNED_COLUMNS, map(_planned_row, plan.recordings))
    write_json(building / _PLAN, plan.settings)


def _foreign_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not _is_ours(path.name))


def _is_ours(name: str) -> bool:
    known = {MANIFEST, ERRORS, PROVENANCE, DATASET_INFO, FEATURES_INFO, LABEL_NAMES, BUILDING}
    plain = name.removeprefix(".").split(".tfrecord-")[0]
    return name in known or plain.startswith(f"{DATASET}-") or (name.startswith(".") and name.endswith(".partial"))


def _throw_away(folder: Path) -> None:
    if odd := _foreign_files(folder):
        raise OutputError(
            f"{folder}: not restarted, because it also holds files that are no records "
            f"({', '.join(odd[:3])}); move them, or name another --out"
        )
    # First what says that the rest is whole.
    (folder / PROVENANCE).unlink(missing_ok=True)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _already_finished(plan: BuildPlan, folder: Path, engine: Engine) -> BuildResult:
    records = open_records(folder)
    rows = list(records.manifest())
    errors = list(records.errors())
    _refuse_other_plan(plan, records.provenance["plan"], folder, [*rows, *errors])
    recorded = {row["file"]: row["sha256"] for row in [*errors, *rows]}
    _check_sources(plan, recorded, folder, engine)
    shutil.rmtree(folder / BUILDING, ignore_errors=True)
    return BuildResult(records, True, len(errors), records.provenance["warnings"])


def _refuse_other_plan(plan: BuildPlan, old: dict[str, Any], folder: Path, old_rows: Sequence[dict[str, str]]) -> None:
    """Raise an OutputError that says what differs, if anything does."""
    changed = [
        f"{name.replace('_', ' ')} ({_short(old.get(name))}, now {_short(plan.settings[name])})"
        for name in ("front_end", "labels", "label_rule", "split", "shards")
        if old.get(name) != plan.settings[name]
    ]
    if any(old.get(name) != plan.settings[name] for name in ("recordings", "rejections")):
        before = {row["file"] for row in old_rows}
        now = {recording.file for recording in plan.recordings} | {rejection.file for rejection in plan.rejections}
        came, went = len(now - before), len(before - now)
        if came or went:
            changed.append(f"the files ({came} came, {went} went)")
        elif not changed:
            changed.append("labels, speakers, splits or parts of the same files")
    if changed:
        raise OutputError(
            f"{folder}: was made from something else; what differs: {'; '.join(changed)}. "
            "Give --restart to build it anew, or name another --out"
        )


def _short(value: object) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if len(text) <= 70 else text[:67] + "…"


def _noted_sha256s(plan: BuildPlan, folder: Path) -> dict[str, str]:
    recorded = {}
    for task in plan.shards:
        if _note_path(folder, task.name).exists():
            note = _read_note(folder, task.name)
            recorded.update({row[0]: row[-1] for row in [*note["errors"], *note["rows"]]})
    return recorded


def _check_sources(plan: BuildPlan, recorded: dict[str, str], folder: Path, engine: Engine) -> None:
    """Raise an OutputError if the audio that finished shards were made from is not what it was."""
    paths = {recording.file: recording.path for recording in plan.recordings if recording.file in recorded}
    files = sorted(paths)
    parts = [[(paths[file], recorded[file]) for file in files[at : at + 100]] for at in range(0, len(files), 100)]
    changed = 0
    for outcome in engine.map(_count_changed, parts):
        changed += outcome.result or 0
    if changed:
        raise OutputError(
            f"{folder}: {changed} audio files changed since they were read; give --restart to build it anew"
        )


def _count_changed(sources: Sequence[tuple[str, str]]) -> int:
    changed = 0
    for path, sha256 in sources:
        try:
            changed += _audio_sha256(path) != sha256
        except AudioError:
            changed += sha256 != ""
    return changed


def _finish(plan: BuildPlan, folder: Path) -> BuildResult:
    """Make the metadata from the notes of all shards; the provenance last."""
    shards: list[dict[str, Any]] = []
    warnings: Counter[str] = Counter()
    n_errors = 0
    with open_atomically(folder / MANIFEST) as manifest, open_atomically(folder / ERRORS) as errors:
        _write_rows(manifest, MANIFEST_COLUMNS, [])
        _write_rows(errors, ERROR_COLUMNS, map(dataclasses.astuple, plan.rejections))
        n_errors += len(plan.rejections)
        for task in plan.shards:
            note = _read_note(folder, task.name)
            _write_rows(manifest, None, note["rows"])
            _write_rows(errors, None, note["errors"])
            n_errors += len(note["errors"])
            warnings.update(note["warnings"])
            shards.append(note["shard"])
    n_examples = sum(shard["examples"] for shard in shards)
    if not n_examples:
        raise RecordsError(
            f"{folder}: not one of {n_errors} recordings could be used; {folder / ERRORS} says why for each"
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
    shutil.rmtree(folder / BUILDING)
    return BuildResult(open_records(folder), False, n_errors, dict(warnings))


def _write_rows(file: IO[str], columns: Sequence[str] | None, rows: Iterable[Sequence[str]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    if columns is not None:
        writer.writerow(columns)
    writer.writerows(rows)
