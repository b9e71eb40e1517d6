import contextlib
import csv
import json
import os
import shutil
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas
import pytest

from ser_batch.audio.frontends import SEED, SPEECH, FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.labels import Labelled, label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import Recording
from ser_batch.errors import OutputError, RecordsError, SerBatchError
from ser_batch.records.build import BuildResult, build_records
from ser_batch.records.examples import parse
from ser_batch.records.folder import open_records, recording_parts
from ser_batch.records.manifest import part_path
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.tfrecords import read_records
from ser_batch.records.verification.verify import verify_records
from ser_batch.runtime.local import LocalEngine
from ser_batch.storage.fingerprints import json_fingerprint, json_list_fingerprint
from ser_batch.storage.locks import locked
from tests.conftest import write_tone
from tests.deadly import DeadlyEngine
from tests.frontends import TRUNCATED, WINDOWED
from tests.manifests import error_rows, example_rows

SHARD = "recordings-train.tfrecord-00000-of-00003"
OPTIONS = BuildOptions(TRUNCATED, SplitPlan(), num_shards=3)


def build(source: Path | str, out: Path, workers: int = 2, options: BuildOptions = OPTIONS, **keywords) -> BuildResult:
    plan = plan_build(label_recordings(list_source(str(source))), options)
    with LocalEngine(workers) as engine:
        return build_records(plan, out, engine, **keywords)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def source(tmp_path: Path, emodb_sample: Path) -> Path:
    return Path(shutil.copytree(emodb_sample, tmp_path / "emodb"))


def test_every_recording_is_an_example(source: Path, tmp_path: Path) -> None:
    result = build(source, tmp_path / "out")
    rows = example_rows(result.records)
    assert sorted(row["file"] for row in rows) == sorted(path.name for path in source.iterdir())
    assert not result.n_errors
    assert result.records.labels == ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
    row = next(row for row in rows if row["file"] == "03a01Wa.wav")
    assert (row["label"], row["speaker"], row["start"], row["end"]) == ("anger", "03", 0.0, 1.877813)


def test_bytes_do_not_depend_on_workers_or_place(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "one", workers=1)
    moved = shutil.copytree(source, tmp_path / "elsewhere" / "emodb")
    build(moved, tmp_path / "deep" / "four", workers=4)
    assert contents(tmp_path / "one") == contents(tmp_path / "deep" / "four")


@pytest.mark.parametrize("front_end", [SEED, SPEECH], ids=["seed", "speech, of any length"])
def test_tensorflow_datasets_opens_it(source: Path, tmp_path: Path, front_end: FrontEnd) -> None:
    import tensorflow_datasets as tfds

    records = build(source, tmp_path / "mine", options=replace(OPTIONS, front_end=front_end)).records
    builder = tfds.builder_from_directory(str(tmp_path / "mine"))
    assert builder.name == "recordings"
    assert builder.info.features["label"].names == list(records.labels)
    seen = {}
    for split in builder.info.splits:
        assert builder.info.splits[split].num_examples == records.n_examples(split)
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            seen[example["file"].decode()] = example
    for row in example_rows(records):
        example = seen.pop(row["file"])
        recording = Recording(row["file"], str(source / row["file"]))
        (window,) = LogMelWindows(recording, front_end)
        np.testing.assert_allclose(example["log_mel"], window.log_mel, atol=1e-4)
        with open(tmp_path / "mine" / row["shard"], "rb") as file:
            stored = list(read_records(file))[int(row["index"])]
        np.testing.assert_array_equal(example["log_mel"], parse(stored, front_end.shape).log_mel)
        assert records.labels[example["label"]] == row["label"]
        assert example["speaker"].decode() == row["speaker"]
        assert example["end"] == np.float32(row["end"])
    assert not seen


def test_unusable_files_are_listed_and_the_rest_is_built(source: Path, tmp_path: Path) -> None:
    (source / "03b01Wa.wav").write_bytes(b"")
    (source / "03b02Wa.wav").write_bytes(b"RIFF but no more")
    (source / "notes.wav").write_bytes((source / "03a01Wa.wav").read_bytes())
    write_tone(source / "03b03Wa.wav", level=0.0)
    result = build(source, tmp_path / "out")
    errors = {row["file"]: (row["stage"], row["error"]) for row in error_rows(result.records)}
    assert errors["03b01Wa.wav"] == ("decode", "is empty (0 bytes)")
    assert errors["03b02Wa.wav"][0] == "decode"
    assert errors["notes.wav"] == ("label", "does not match the file names of EmoDB")
    assert errors["03b03Wa.wav"] == ("check", "is digital silence: every sample is zero")
    assert len(errors) == result.n_errors == 4
    assert result.records.n_examples() == 14


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    for name in ("03b01Wa.wav", "08b01La.wav"):
        write_tone(tmp_path / "in" / name, level=0.0)
    with pytest.raises(RecordsError, match="not one of 2 recordings"):
        build(tmp_path / "in", tmp_path / "out")


def test_a_finished_folder_is_left_as_it_is(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert build(source, tmp_path / "out").was_finished
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize("damage", ["shard gone", "shard cut", "manifest gone", "rejected gone"])
def test_a_finished_folder_without_a_part_is_not_called_finished(source: Path, tmp_path: Path, damage: str) -> None:
    path = build(source, tmp_path / "out").records.path
    name = {"manifest gone": f"manifest/{SHARD}.parquet", "rejected gone": "manifest/rejected.parquet"}.get(damage)
    part = path / name if name else next(iter(sorted(path.glob("*.tfrecord-*"))))
    if damage == "shard cut":
        os.truncate(part, part.stat().st_size - 1)
    else:
        part.unlink()
    with pytest.raises(SerBatchError, match=f"{part}: "):
        build(source, path)


def test_what_differs_is_said(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    for options, says in [
        (replace(OPTIONS, front_end=SEED), "front end"),
        (replace(OPTIONS, split=SplitPlan(seed=1)), "split"),
        (replace(OPTIONS, num_shards=1), "shards"),
    ]:
        with pytest.raises(OutputError, match=f"differences: {says}.*--restart"):
            build(source, tmp_path / "out", options=options)
    write_tone(source / "03b03Wa.wav")
    (source / "03a01Wa.wav").unlink()
    with pytest.raises(OutputError, match=r"the files \(1 added, 1 removed\)"):
        build(source, tmp_path / "out")


def test_a_changed_source_file_is_noticed(source: Path, tmp_path: Path) -> None:
    (source / "03b01Wa.wav").write_bytes(b"broken")
    build(source, tmp_path / "out")
    data = bytearray((source / "03a01Wa.wav").read_bytes())
    data[-1] ^= 1
    (source / "03a01Wa.wav").write_bytes(data)
    with pytest.raises(OutputError, match="1 audio files changed"):
        build(source, tmp_path / "out")
    shutil.copy(source / "03a01Fa.wav", source / "03b01Wa.wav")
    with pytest.raises(OutputError, match="2 audio files changed"):
        build(source, tmp_path / "out")
    assert build(source, tmp_path / "out", restart=True).n_errors == 0


def test_what_a_restart_left_is_never_taken_for_a_build(source: Path, tmp_path: Path) -> None:
    build(source, tmp_path / "out")
    (tmp_path / "out" / "provenance.json").unlink()
    with pytest.raises(OutputError, match=r"parts of records without provenance\.json.*--restart"):
        build(source, tmp_path / "out", options=replace(OPTIONS, num_shards=1))
    assert (
        build(source, tmp_path / "out", options=replace(OPTIONS, num_shards=1), restart=True).records.n_examples() == 14
    )


def test_parts_without_a_plan_are_not_trusted(source: Path, tmp_path: Path) -> None:
    plan = plan_build(label_recordings(list_source(str(source))), OPTIONS)
    with LocalEngine(2) as engine, pytest.raises(KeyboardInterrupt):
        build_records(plan, tmp_path / "out", CutShortEngine(engine, 2))
    for shard in (tmp_path / "out").glob("recordings-*"):
        shard.unlink()
    (tmp_path / "out" / ".building" / "identity.json").unlink()
    with pytest.raises(OutputError, match=r"parts of records without provenance.json \(manifest\); give --restart"):
        build(source, tmp_path / "out")
    build(source, tmp_path / "whole")
    build(source, tmp_path / "out", restart=True)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_folder_of_an_earlier_version_is_refused_and_can_be_replaced(source: Path, tmp_path: Path) -> None:
    path = build(source, tmp_path / "out").records.path
    before = contents(path)
    shutil.rmtree(path / "manifest")
    for name in ("manifest.csv", "errors.csv"):
        (path / name).write_text("file\n")
    provenance = json.loads((path / "provenance.json").read_text())
    del provenance["rejected_sha256"]
    (path / "provenance.json").write_text(json.dumps(provenance | {"tables": {}, "version": "0.0.9"}))
    with pytest.raises(RecordsError, match=f"{path}: written by ser-batch 0.0.9, .*build-records --restart"):
        build(source, path)
    build(source, path, restart=True)
    assert contents(path) == before


def test_the_plans_fingerprint_does_not_depend_on_how_it_is_streamed() -> None:
    for number in (0, 1, 1000, 1001, 2500):
        rows = [(str(one), "ü", None) for one in range(number)]
        assert json_list_fingerprint(iter(rows)) == json_fingerprint(rows)


def test_two_builds_into_one_folder_do_not_meet(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    other = locked(tmp_path / "out" / ".lock", tmp_path / "out")
    with other, pytest.raises(OutputError, match="another run is writing here"):
        build(source, tmp_path / "out")


@dataclass
class CutShortEngine:
    """Does the first few tasks, then fails as a machine does."""

    inner: LocalEngine
    tasks_left: int
    workers: int = 2

    def map(self, function, tasks):
        for outcome in self.inner.map(function, tasks):
            yield outcome
            self.tasks_left -= 1
            if not self.tasks_left:
                raise KeyboardInterrupt


@pytest.mark.parametrize("tasks_done", [1, 3, 5])
def test_a_build_cut_short_continues_to_the_same_bytes(source: Path, tmp_path: Path, tasks_done: int) -> None:
    build(source, tmp_path / "whole")
    plan = plan_build(label_recordings(list_source(str(source))), OPTIONS)
    with LocalEngine(2) as engine, pytest.raises(KeyboardInterrupt):
        build_records(plan, tmp_path / "out", CutShortEngine(engine, tasks_done))
    with pytest.raises(RecordsError, match="unfinished record folder"):
        open_records(tmp_path / "out")
    parts = [tmp_path / "out" / part.stem for part in (tmp_path / "out" / "manifest").glob("recordings-*.parquet")]
    written = {path: path.stat().st_mtime_ns for path in parts}
    assert len(written) >= tasks_done
    build(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    for path, mtime_ns in written.items():
        assert path.stat().st_mtime_ns == mtime_ns


def test_an_unfinished_build_of_something_else_is_not_continued(source: Path, tmp_path: Path) -> None:
    plan = plan_build(label_recordings(list_source(str(source))), OPTIONS)
    with LocalEngine(2) as engine, pytest.raises(KeyboardInterrupt):
        build_records(plan, tmp_path / "out", CutShortEngine(engine, 1))
    with pytest.raises(OutputError, match="front end"):
        build(source, tmp_path / "out", options=replace(OPTIONS, front_end=SEED))


@pytest.mark.parametrize(
    ("signum", "says"),
    [(signal.SIGSEGV, "crashed (SIGSEGV)"), (signal.SIGKILL, "SIGKILL"), (signal.SIGALRM, "no progress")],
)
def test_a_recording_that_ends_its_worker_is_found(source: Path, tmp_path: Path, signum: int, says: str) -> None:
    plan = plan_build(label_recordings(list_source(str(source))), OPTIONS)
    with LocalEngine(2) as engine:
        result = build_records(plan, tmp_path / "out", DeadlyEngine(engine, "08a02La.wav", signum))
    (error,) = error_rows(result.records)
    assert (error["file"], error["stage"]) == ("08a02La.wav", "worker")
    assert says in error["error"]
    assert result.records.n_examples() == 13
    assert build(source, tmp_path / "out").was_finished


def test_parts_of_a_file_are_examples_with_their_times(source: Path, tmp_path: Path) -> None:
    table = source / "parts.csv"
    with open(table, "w", newline="") as file:
        rows = [["file", "start", "end", "label"], ["16b03Ta.wav", "0.5", "2", "a"], ["16b03Ta.wav", "2", "", "b"]]
        csv.writer(file).writerows(rows)
    records = build(table, tmp_path / "out", options=BuildOptions(SEED, SplitPlan("none"))).records
    times = {(row["label"], row["start"], row["end"], row["duration"]) for row in example_rows(records)}
    assert times == {("a", 0.5, 2.0, 1.5), ("b", 2.0, 5.975625, 3.975625)}


def parts_table(folder: Path, rows: list[str], columns: str = "file,start,end,label,split") -> Path:
    """A CSV of parts of `long.wav`, of 7 s, and of `short.wav`, of 1 s."""
    write_tone(folder / "long.wav", secs=7.0)
    write_tone(folder / "short.wav")
    (folder / "broken.wav").write_bytes(b"broken")
    (folder / "parts.csv").write_text("\n".join([columns, *rows]))
    return folder / "parts.csv"


def test_failed_parts_of_one_file_are_told_apart(tmp_path: Path) -> None:
    rows = ["long.wav,,,a,", "short.wav,,,b,", "short.wav,0,,b,", "broken.wav,0.5,1,a,", "broken.wav,1,,a,"]
    rows += ["long.wav,1,2,,", "long.wav,3,2,a,", "long.wav,x,2,a,"]
    errors = error_rows(build(parts_table(tmp_path, rows), tmp_path / "out").records)
    assert {(row["file"], row["start"], row["end"], row["stage"]) for row in errors} == {
        ("short.wav", 0.0, None, "list"),
        ("broken.wav", 0.5, 1.0, "decode"),
        ("broken.wav", 1.0, None, "decode"),
        ("long.wav", 1.0, 2.0, "label"),
        ("long.wav", 3.0, 2.0, "list"),
        ("long.wav", None, None, "list"),
    }
    assert build(tmp_path / "parts.csv", tmp_path / "out").was_finished


REPEATS = [
    *("long.wav,0,30,a,train", "long.wav,,,a,test", "long.wav,0,7,a,", "long.wav,0,5,a,", "long.wav,1,9,a,"),
    *("short.wav,,,b,", "short.wav,0,2,b,train", "short.wav,0.5,,b,", "broken.wav,0,3,a,"),
]


@pytest.mark.parametrize("front_end", [TRUNCATED, WINDOWED], ids=["one example", "windows"])
def test_rows_that_turn_out_to_be_one_recording_are_kept_once(tmp_path: Path, front_end: FrontEnd) -> None:
    table = parts_table(tmp_path, REPEATS)
    options = BuildOptions(front_end, SplitPlan("random"), num_shards=3)
    result = build(table, tmp_path / "out", workers=1, options=options)
    errors = {
        (row["file"], row["start"], row["end"]): (row["stage"], row["error"]) for row in error_rows(result.records)
    }
    reason = "is the same recording as {}: both end at {} s; keep one of the two rows"
    assert errors.pop(("broken.wav", 0.0, 3.0))[0] == "decode"
    assert errors == {
        ("long.wav", 0.0, None): ("check", reason.format("long.wav, 0 s to 30 s", "7.0")),
        ("long.wav", 0.0, 7.0): ("check", reason.format("long.wav, 0 s to 30 s", "7.0")),
        ("short.wav", 0.0, 2.0): ("check", reason.format("short.wav", "1.0")),
    }
    assert result.n_errors == 4
    tables = map(recording_parts, result.records.manifest("file", "start", "end", "recording"))
    parts = [(row["file"], row["start_min"], row["end_max"]) for table in tables for row in table.to_pylist()]
    assert sorted(parts) == [
        *(("long.wav", 0.0, 5.0), ("long.wav", 0.0, 7.0), ("long.wav", 1.0, 7.0)),
        *(("short.wav", 0.0, 1.0), ("short.wav", 0.5, 1.0)),
    ]
    with LocalEngine(2) as engine:
        assert not verify_records(result.records, engine, list_source(str(table)))
    build(table, tmp_path / "three", workers=3, options=options)
    assert contents(tmp_path / "out") == contents(tmp_path / "three")
    assert build(table, tmp_path / "out", options=options).was_finished


@pytest.mark.parametrize("tasks_done", range(1, 8))
def test_a_build_with_repeated_rows_may_be_cut_short_anywhere(tmp_path: Path, tasks_done: int) -> None:
    table = parts_table(tmp_path, REPEATS)
    build(table, tmp_path / "whole")
    plan = plan_build(label_recordings(list_source(str(table))), OPTIONS)
    with LocalEngine(2) as engine, contextlib.suppress(KeyboardInterrupt):
        build_records(plan, tmp_path / "out", CutShortEngine(engine, tasks_done))
    build(table, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_parts_are_parquet_that_any_reader_opens(source: Path, tmp_path: Path) -> None:
    (source / "notes.wav").write_bytes(b"broken")
    records = build(source, tmp_path / "out", options=BuildOptions(SEED, SplitPlan("none"), num_shards=1)).records
    part = pandas.read_parquet(part_path(records.path, records.shards()[0].name))
    assert list(part["index"]) == list(range(14))
    assert sorted(part["recording"]) == list(range(14))
    assert set(part["window"]) == {0}
    rejected = pandas.read_parquet(part_path(records.path, "rejected"))
    assert list(rejected["error"]) == ["does not match the file names of EmoDB"]
    assert list(pandas.read_parquet(records.path / "manifest").columns) == list(part.columns)


def test_windows_are_examples_of_one_split(tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "a" / "long.wav", secs=7.0)
    write_tone(tmp_path / "in" / "b" / "short.wav", secs=1.0)
    records = build(tmp_path / "in", tmp_path / "out", options=BuildOptions(WINDOWED, SplitPlan("none"))).records
    times = sorted((row["file"], row["start"], row["end"]) for row in example_rows(records))
    assert times == [
        ("a/long.wav", 0.0, 3.0),
        ("a/long.wav", 1.5, 4.5),
        ("a/long.wav", 3.0, 6.0),
        ("a/long.wav", 4.0, 7.0),
        ("b/short.wav", 0.0, 1.0),
    ]


def test_shards_are_never_more_than_recordings(source: Path) -> None:
    labelled: Labelled = label_recordings(list_source(str(source)))
    plan = plan_build(labelled, BuildOptions(SEED, SplitPlan(), num_shards=1000))
    assert all(len(shard.rows) == 1 for shard in plan.shards)
    assert len(plan.shards) == 14
