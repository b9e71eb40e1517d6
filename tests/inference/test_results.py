"""What a table's parts are for: runs that stop and go on, folders that grow, tables that are left alone."""

import dataclasses
import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import recordings
from ser_batch.errors import OutputError, UsageError
from ser_batch.inference.embeddings import EmbeddingOptions
from ser_batch.inference.infer import InferOptions, InferResult, infer
from ser_batch.inference.results import TableParts, complete_results, keys_of, parts_folder
from ser_batch.models.bundles import shipped_bundle
from ser_batch.runtime.local import LocalEngine
from tests.conftest import write_tone
from tests.counting import CountingNetwork
from tests.inline import Inline

TASK = 4  # recordings in one: a stop may cost those that are on their way
SHIPPED = shipped_bundle()
N_FILES = 15  # the sample's 14, and one that is no audio


class Stop(BaseException):
    pass


@pytest.fixture(scope="module")
def engine():
    with LocalEngine(2) as engine:
        yield engine


@pytest.fixture
def source(tmp_path: Path, emodb_sample: Path) -> Path:
    folder = Path(shutil.copytree(emodb_sample, tmp_path / "in"))
    (folder / "10broken.wav").write_bytes(b"not audio")
    return folder


@pytest.fixture
def run(engine: LocalEngine, network: CountingNetwork) -> Callable[..., InferResult]:
    def run(source: Path, out: Path, stop_after: int | None = None, bundle=SHIPPED, **options) -> InferResult:
        def on_progress(done: int, total: int) -> None:
            if stop_after is not None and done >= stop_after:
                raise Stop

        network.counted()
        return infer(list_source(str(source)), bundle, str(out), engine, InferOptions(**options), on_progress)

    return run


@pytest.fixture
def whole(run, source: Path, tmp_path: Path) -> bytes:
    run(source, tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def stop(run, source: Path, out: Path, after: int, **options) -> None:
    with pytest.raises(Stop):
        run(source, out, stop_after=after, **options)
    assert not out.exists() or options


# --- stopped, continued


@pytest.mark.parametrize("done", [0, TASK, 2 * TASK, N_FILES])
def test_a_stopped_run_goes_on_to_the_same_bytes(run, source, tmp_path, whole, network, done: int) -> None:
    out = tmp_path / "preds.csv"
    stop(run, source, out, done)
    result = run(source, out)
    assert out.read_bytes() == whole
    assert result.n_known + result.n_new == N_FILES
    assert result.n_known >= done
    assert network.counted() in (result.n_new, result.n_new - 1)  # one is no audio
    assert (result.summary.files, result.summary.errors) == (N_FILES, 1)


def test_it_may_stop_again_and_again(run, source, tmp_path, whole) -> None:
    out = tmp_path / "preds.csv"
    for done in range(1, N_FILES + 1, TASK):
        stop(run, source, out, done)
    assert run(source, out).n_new < TASK
    assert out.read_bytes() == whole


def test_only_a_file_that_changed_is_done_again(run, source, tmp_path, network) -> None:
    out = tmp_path / "preds.csv"
    stop(run, source, out, N_FILES)
    changed = list(recordings(list_source(str(source)).recordings))[1].path
    write_tone(Path(changed))
    run(source, out)
    assert network.counted() == 1
    run(source, tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_a_stopped_run_does_not_go_on_with_other_files(run, source, tmp_path) -> None:
    out = tmp_path / "preds.csv"
    stop(run, source, out, TASK)
    write_tone(source / "new.wav")
    with pytest.raises(OutputError, match=r"the files \(1 added, 0 removed\).*--update to keep"):
        run(source, out)
    run(source, out, update=True)
    run(source, tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_a_part_that_a_power_loss_tore_is_named(run, source, tmp_path, whole) -> None:
    out = tmp_path / "preds.csv"
    stop(run, source, out, 2 * TASK)
    (first, *_) = sorted((parts_folder(out) / "results").glob("*.parquet"))
    first.write_bytes(first.read_bytes()[:-100])
    with pytest.raises(OutputError, match=rf"{re.escape(str(first))}: is damaged \(.*give --restart"):
        run(source, out)
    run(source, out, restart=True)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("name", ["identity.json", "table.json", "plan.parquet"])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_file_is_one_line_and_restart_helps(run, source, tmp_path, whole, name: str, damage: str) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    path = parts_folder(out) / name
    content = path.read_bytes()
    path.write_bytes(content[:-20] if damage == "cut" else b"x" * len(content))
    with pytest.raises(OutputError, match=r"is damaged \(.*give --restart") as caught:
        run(source, out)
    assert "\n" not in str(caught.value)
    assert out.read_bytes() == whole
    run(source, out, restart=True)
    assert out.read_bytes() == whole


def test_parts_of_another_version_are_refused(run, source, tmp_path, monkeypatch) -> None:
    run(source, tmp_path / "preds.csv")
    monkeypatch.setattr("ser_batch.inference.results._VERSION", 99)
    with pytest.raises(OutputError, match="written by another version of ser-batch; give --restart"):
        run(source, tmp_path / "preds.csv")


def test_a_run_may_end_between_the_table_and_the_note_of_it(run, source, tmp_path, whole, monkeypatch) -> None:
    out = tmp_path / "preds.csv"
    note = TableParts.note

    def stop_at_the_last(parts: TableParts, tables: list[str], summary: object) -> None:
        if summary is not None:
            raise Stop
        note(parts, tables, summary)

    monkeypatch.setattr(TableParts, "note", stop_at_the_last)
    with pytest.raises(Stop):
        run(source, out)
    monkeypatch.setattr(TableParts, "note", note)
    assert out.read_bytes() == whole
    assert not run(source, out).was_finished
    assert run(source, out).was_finished
    assert out.read_bytes() == whole


# --- finished


def test_a_finished_table_is_left_alone(run, source, tmp_path, network) -> None:
    out = tmp_path / "preds.csv"
    first = run(source, out)
    before = out.stat().st_mtime_ns
    again = run(source, out)
    assert again.was_finished
    assert again.summary == first.summary
    assert (out.stat().st_mtime_ns, network.counted()) == (before, 0)


def test_a_table_that_was_deleted_is_made_from_its_parts(run, source, tmp_path, network, whole) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    out.unlink()
    assert not run(source, out).was_finished
    assert (out.read_bytes(), network.counted()) == (whole, 0)


def test_a_table_that_someone_changed_is_left_alone(run, source, tmp_path, whole) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    out.write_bytes(whole.replace(b"03a01Fa", b"03a01XX"))
    for options in ({}, {"update": True}):
        with pytest.raises(OutputError, match="was changed after"):
            run(source, out, **options)
    run(source, out, restart=True)
    assert out.read_bytes() == whole


def test_a_table_without_its_parts_is_left_alone(run, source, tmp_path, whole) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    shutil.rmtree(parts_folder(out))
    for options in ({}, {"update": True}):
        with pytest.raises(OutputError, match=r"without its folder \.preds\.csv\.parts"):
            run(source, out, **options)
    run(source, out, restart=True)
    assert out.read_bytes() == whole


def test_a_copied_table_and_its_parts_are_still_finished(run, source, tmp_path) -> None:
    run(source, tmp_path / "preds.csv")
    (tmp_path / "copy").mkdir()
    shutil.copy(tmp_path / "preds.csv", tmp_path / "copy")
    shutil.copytree(parts_folder(tmp_path / "preds.csv"), tmp_path / "copy" / ".preds.csv.parts")
    assert run(source, tmp_path / "copy" / "preds.csv").was_finished


def other_bundle():
    return dataclasses.replace(SHIPPED, fingerprint="0" * 64)


@pytest.mark.parametrize("state", ["finished", "stopped"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"bundle": other_bundle()}, 'model was ".*", now "000000000000"'),
        ({"windows": True}, "windows was false, now true"),
        ({"format": "jsonl"}, 'format was "csv", now "jsonl"'),
    ],
)
@pytest.mark.parametrize("update", [False, True])
def test_differences_are_named(run, source, tmp_path, state, options, expected, update) -> None:
    out = tmp_path / "preds.csv"
    if state == "finished":
        run(source, out)
    else:
        stop(run, source, out, TASK)
    with pytest.raises(OutputError, match=expected) as caught:
        run(source, out, **options, update=update)
    assert "\n" not in str(caught.value)
    assert "--update" not in str(caught.value)


def test_other_files_are_named(run, source, tmp_path) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    (source / "03a01Fa.wav").rename(source / "new.wav")
    with pytest.raises(OutputError, match=r"the files \(1 added, 1 removed\)"):
        run(source, out)
    (source / "new.wav").rename(source / "03a01Fa.wav")
    assert run(source, out).was_finished
    write_tone(source / "03a01Fa.wav")
    with pytest.raises(OutputError, match=r"the audio \(1 file changed since the last run\)"):
        run(source, out)


def test_the_same_names_in_another_folder_are_other_files(run, source, tmp_path) -> None:
    run(source, tmp_path / "preds.csv")
    shutil.copytree(source, tmp_path / "copy")
    with pytest.raises(OutputError, match="the folder of the files"):
        run(tmp_path / "copy", tmp_path / "preds.csv")


def test_another_order_is_another_table(run, source, tmp_path) -> None:
    names = ["03a01Fa.wav", "03a01Wa.wav"]
    for order in (names, names[::-1]):
        (source / "list.csv").write_text("\n".join(["file", *order]))
        if order is names:
            run(source / "list.csv", tmp_path / "preds.csv")
    with pytest.raises(OutputError, match="the order of the files"):
        run(source / "list.csv", tmp_path / "preds.csv")
    run(source / "list.csv", tmp_path / "preds.csv", update=True)
    assert (tmp_path / "preds.csv").read_text().splitlines()[1].startswith("03a01Wa.wav")


# --- updated


def grow(source: Path) -> None:
    """Two files come, before and after all others, one changes, one goes, and one is mended."""
    write_tone(source / "00first.wav")
    write_tone(source / "later" / "new.wav", level=0.3)
    write_tone(source / "03a01Wa.wav", level=0.2)
    (source / "03a01Fa.wav").unlink()
    write_tone(source / "10broken.wav", level=0.1)


N_GROWN = 4


def test_an_update_predicts_what_came_or_changed_and_gives_a_fresh_table(run, source, tmp_path, network) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    grow(source)
    result = run(source, out, update=True)
    assert network.counted() == N_GROWN
    assert (result.summary.files, result.n_known) == (16, 16 - N_GROWN)
    fresh = run(source, tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()
    assert result.summary == fresh.summary
    assert run(source, out).was_finished
    assert run(source, out, update=True).was_finished
    assert network.counted() == 0


@pytest.mark.parametrize("windows", [False, True])
@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_updates_of_other_formats(run, source, tmp_path, windows: bool, suffix: str) -> None:
    run(source, tmp_path / f"preds.{suffix}", windows=windows)
    grow(source)
    for out in ("preds", "fresh"):
        run(source, tmp_path / f"{out}.{suffix}", windows=windows, update=True)
    assert (tmp_path / f"preds.{suffix}").read_bytes() == (tmp_path / f"fresh.{suffix}").read_bytes()


def test_the_old_table_stands_until_the_update_is_done(run, source, tmp_path, network, whole) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    for number in range(2 * TASK + 1):
        write_tone(source / f"new{number}.wav", level=0.1 + 0.05 * number)
    stop(run, source, out, N_FILES + TASK, update=True)
    assert out.read_bytes() == whole
    known = run(source, out).n_known  # the plan is what is there now
    assert known >= N_FILES + TASK
    assert network.counted() == N_FILES + 2 * TASK + 1 - known
    run(source, tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_files_that_only_went_need_no_network(run, source, tmp_path, network) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    (source / "03a01Fa.wav").unlink()
    assert not run(source, out, update=True).was_finished
    assert network.counted() == 0
    assert len(out.read_text().splitlines()) == N_FILES


def test_the_first_update_makes_the_table(run, source, tmp_path, whole) -> None:
    assert not run(source, tmp_path / "preds.csv", update=True).was_finished
    assert (tmp_path / "preds.csv").read_bytes() == whole


def test_what_could_not_be_listed_comes_and_goes_with_updates(run, source, tmp_path) -> None:
    out = tmp_path / "preds.csv"
    (source / "up").symlink_to(source)
    assert run(source, out).summary.errors == 2
    assert run(source, out).was_finished
    (source / "up").unlink()
    (source / "over").symlink_to(source)
    assert run(source, out, update=True).summary.first_errors[-1] == ("over", "is a link to a folder that contains it")
    (source / "over").unlink()
    assert run(source, out, update=True).summary.errors == 1


def test_parts_of_one_file_are_updated_one_by_one(run, source, tmp_path, network) -> None:
    out = tmp_path / "preds.csv"
    (source / "parts.csv").write_text("file,start,end\n03a01Wa.wav,0,1\n03a01Wa.wav,1,\n")
    run(source / "parts.csv", out)
    failing = "10broken.wav,2,3\n10broken.wav,3,\n"
    (source / "parts.csv").write_text("file,start,end\n03a01Wa.wav,0,0.5\n03a01Wa.wav,1,\n03a01Wa.wav,,\n" + failing)
    run(source / "parts.csv", out, update=True)
    assert network.counted() == 2
    assert "\n10broken.wav,00:00:02.000000,00:00:03.000000," in out.read_text()
    assert "\n10broken.wav,00:00:03.000000,,," in out.read_text()
    run(source / "parts.csv", tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


@pytest.mark.parametrize("options", [{"out": "-"}, {"restart": True}])
def test_update_alone(run, source, tmp_path, options) -> None:
    with pytest.raises(UsageError, match="--update cannot be combined"):
        run(source, **({"out": tmp_path / "preds.csv"} | options), update=True)


# --- begun anew


def test_restart_keeps_the_old_table_until_the_new_one_is_whole(run, source, tmp_path, whole) -> None:
    out = tmp_path / "preds.csv"
    run(source, out)
    grow(source)
    stop(run, source, out, TASK, restart=True)
    assert out.read_bytes() == whole
    run(source, out)
    run(source, tmp_path / "fresh.csv")
    assert out.read_bytes() == (tmp_path / "fresh.csv").read_bytes()


def test_nothing_else_is_left_beside_the_table(run, source, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".preds.csv.123.partial").write_text("from a run that was killed")
    run(source, tmp_path / "out" / "preds.csv")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"preds.csv", ".preds.csv.parts"}


def test_a_task_that_the_engine_loses_is_an_error(emodb_sample: Path, tmp_path: Path) -> None:
    class Losing(Inline):
        def map(self, function: Any, tasks: Any) -> Any:
            return super().map(function, (task for number, task in enumerate(tasks) if number != 1))

    listing = list_source(str(emodb_sample))
    options = EmbeddingOptions(partial(CountingNetwork, Path(os.devnull)), shipped_bundle().front_end)
    with pytest.raises(OutputError, match=r"recordings? without a result; run the same command again"):
        complete_results(listing, keys_of(listing), options, Losing(), tmp_path)


def test_a_cut_file_of_embeddings_is_one_line(emodb_sample: Path, tmp_path: Path) -> None:
    listing = list_source(str(emodb_sample))
    options = EmbeddingOptions(partial(CountingNetwork, Path(os.devnull)), shipped_bundle().front_end)
    complete = complete_results(listing, keys_of(listing), options, Inline(), tmp_path)
    largest = max(tmp_path.glob("*.f32"), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    with pytest.raises(OutputError, match=r"\.f32: has \d+ bytes, not \d+; give --restart to make the table again"):
        list(complete.results())
