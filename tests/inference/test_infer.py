"""`infer` through the command line, with the shipped model."""

import csv
import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ser_batch.cli.app import main
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import recordings as recordings_of
from ser_batch.evaluation.metrics import score
from ser_batch.inference.embeddings import EmbeddingOptions
from ser_batch.models.bundles import shipped_bundle
from ser_batch.runtime.local import LocalEngine
from tests.conftest import write_tone
from tests.counting import CountingNetwork
from tests.deadly import DeadlyEngine
from tests.predicting import classified, results_of

LABELS = shipped_bundle().labels


@pytest.fixture
def source(tmp_path: Path, emodb_sample: Path) -> Path:
    return Path(shutil.copytree(emodb_sample, tmp_path / "in"))


def infer(source: Path | str, out: Path | str, *options: str) -> int:
    return main(["infer", str(source), "-o", str(out), "-j", "2", *options])


def table(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_file_has_a_row_in_order(source: Path, tmp_path: Path, capfd) -> None:
    assert infer(source, tmp_path / "preds.csv") == 0
    rows = table(tmp_path / "preds.csv")
    assert [row["file"] for row in rows] == sorted(path.name for path in source.iterdir())
    for row in rows:
        probabilities = [float(row[f"p_{label}"]) for label in LABELS]
        assert sum(probabilities) == pytest.approx(1.0, abs=1e-5)
        assert row["emotion"] == LABELS[int(np.argmax(probabilities))]
        assert row["model"] == shipped_bundle().short_fingerprint
    output = capfd.readouterr().err
    assert "the model shipped with ser-batch" in output
    assert "14 rows, 0 of them errors" in output


def test_bad_files_are_rows_with_an_error(source: Path, tmp_path: Path, capfd) -> None:
    (source / "broken.wav").write_bytes(b"not audio at all")
    (source / "empty.wav").write_bytes(b"")
    write_tone(source / "silent.wav", level=0.0)
    (source / "notes.txt").write_text("x")
    assert infer(source, tmp_path / "preds.csv") == 3
    errors = {row["file"]: row["error"] for row in table(tmp_path / "preds.csv") if row["error"]}
    assert set(errors) == {"broken.wav", "empty.wav", "silent.wav"}
    assert errors["silent.wav"] == "is digital silence: every sample is zero"
    output = capfd.readouterr().err
    assert "error: empty.wav: is empty (0 bytes)" in output
    assert "1 file in" in output
    assert "17 rows, 3 of them errors" in output
    assert infer(source, tmp_path / "preds.csv") == 3
    again = capfd.readouterr().err
    assert "already finished" in again
    assert "error: empty.wav: is empty (0 bytes)" in again


@pytest.mark.parametrize("to_file", [False, True])
def test_failed_parts_of_one_file_are_told_apart(source: Path, tmp_path: Path, capfd, to_file: bool) -> None:
    (source / "broken.wav").write_bytes(b"not audio at all")
    parts = ["broken.wav,0.5,1", "broken.wav,1,", "broken.wav,3,2", "broken.wav,x,2", "03a01Wa.wav,0,60"]
    (source / "parts.csv").write_text("\n".join(["file,start,end", *parts]))
    out = tmp_path / "preds.csv"
    assert infer(source / "parts.csv", out if to_file else "-") == 3
    output = capfd.readouterr()
    if not to_file:
        out.write_text(output.out)
    assert [(row["start"], row["end"], row["warnings"]) for row in table(out)] == [
        ("00:00:00.500000", "00:00:01.000000", ""),
        ("00:00:01.000000", "", ""),
        ("00:00:00.000000", "00:00:01.877813", "end-beyond"),
        ("00:00:03.000000", "00:00:02.000000", ""),
        ("", "", ""),
    ]
    for name in ("broken.wav, 0.5 s to 1 s", "broken.wav, 1 s to the end", "broken.wav, 3 s to 2 s", "broken.wav"):
        assert f"error: {name}: " in output.err


def test_nothing_but_errors_exits_1_every_time(tmp_path: Path) -> None:
    write_tone(tmp_path / "in" / "silent.wav", level=0.0)
    for _ in range(2):
        assert infer(tmp_path / "in", tmp_path / "preds.csv") == 1
    assert len(table(tmp_path / "preds.csv")) == 1


def test_workers_and_neighbours_change_nothing(emodb_sample: Path) -> None:
    recordings = list(recordings_of(list_source(str(emodb_sample)).recordings))
    options = EmbeddingOptions.of(shipped_bundle())
    results = []
    for workers, order in [(1, slice(None)), (3, slice(None, None, -1))]:
        with LocalEngine(workers) as engine:
            found = results_of(recordings[order], engine, options)
            results.append(np.array([one.embeddings[:1][0] for one in found])[order])
    np.testing.assert_array_equal(results[0], results[1])


def test_a_file_that_ends_its_worker_is_a_row(emodb_sample: Path) -> None:
    recordings = list(recordings_of(list_source(str(emodb_sample)).recordings))
    with LocalEngine(2) as engine:
        deadly = DeadlyEngine(engine, "08a02La.wav", signum=11)
        results = results_of(recordings, deadly, EmbeddingOptions.of(shipped_bundle()))
    assert [one.file for one, result in zip(recordings, results, strict=True) if result.error] == ["08a02La.wav"]


def test_the_same_command_again(source: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "preds.csv"
    infer(source, out)
    before = out.stat().st_mtime_ns
    assert infer(source, out) == 0
    assert "already finished" in capfd.readouterr().err
    assert out.stat().st_mtime_ns == before
    (source / "03a01Fa.wav").unlink()
    assert infer(source, out) == 1
    assert "the files (0 added, 1 removed)" in capfd.readouterr().err
    assert infer(source, out, "--restart") == 0
    assert len(table(out)) == 13


@pytest.mark.parametrize("options", [[], ["--update"], ["--restart"]])
def test_the_table_is_no_source_of_itself(source: Path, tmp_path: Path, capfd, options: list[str]) -> None:
    """``infer * -o preds.csv`` a second time."""
    out = tmp_path / "preds.csv"
    infer(source, out)
    before = out.read_bytes()
    sources = [str(source), f"{source}/../preds.csv"]
    assert main(["infer", *sources, "-o", str(out), *options]) == 2
    assert "preds.csv: is the output table; remove it" in capfd.readouterr().err
    assert out.read_bytes() == before


def test_a_foreign_file_is_never_overwritten(source: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "grades.csv"
    out.write_text("name,grade\n")
    for options in ([], ["--restart"]):
        assert infer(source, out, *options) == 1
        assert "not a prediction table" in capfd.readouterr().err
    assert out.read_text() == "name,grade\n"


def test_standard_output_holds_rows_and_nothing_else(emodb_sample: Path, capfd) -> None:
    assert main(["infer", str(emodb_sample / "03a01Wa.wav"), "-o", "-"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("file,start,end,speaker,emotion")
    assert lines[1].startswith("03a01Wa.wav,00:00:00.000000,00:00:01.877813,")


def test_odd_names_and_parts(tmp_path: Path, emodb_sample: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ["a,b.wav", "new\nline.wav", 'quo"te.wav', "back\\slash.wav", "\udcff.wav"]:
        shutil.copy(emodb_sample / "03a01Wa.wav", folder / name)
    assert infer(folder, tmp_path / "names.csv") == 0
    names = pd.read_csv(tmp_path / "names.csv")["file"].tolist()
    assert sorted(names) == sorted(["a,b.wav", "new\nline.wav", 'quo"te.wav', r"back\\slash.wav", r"\xff.wav"])

    (folder / "parts.csv").write_text('file,start,end\n"a,b.wav",0,1\n"a,b.wav",1,\n')
    assert infer(folder / "parts.csv", tmp_path / "parts_out.csv") == 0
    rows = table(tmp_path / "parts_out.csv")
    assert [(row["start"], row["end"]) for row in rows] == [
        ("00:00:00.000000", "00:00:01.000000"),
        ("00:00:01.000000", "00:00:01.877813"),
    ]


def test_an_update_equals_a_fresh_run(source: Path, tmp_path: Path) -> None:
    write_tone(source / "gone.wav")
    assert infer(source, tmp_path / "preds.csv") == 0
    (source / "gone.wav").unlink()
    shutil.copy(source / "03a01Wa.wav", source / "00.wav")
    assert infer(source, tmp_path / "preds.csv", "--update") == 0
    assert infer(source, tmp_path / "fresh.csv") == 0
    assert (tmp_path / "preds.csv").read_bytes() == (tmp_path / "fresh.csv").read_bytes()


@pytest.mark.parametrize("options", [["--format", "csv"], ["--format", "jsonl", "--windows"], ["--format", "parquet"]])
def test_standard_output_is_what_the_file_would_be(
    source: Path, tmp_path: Path, capfdbinary, network: CountingNetwork, options: list[str]
) -> None:
    (source / "broken.wav").write_bytes(b"not audio")
    (source / "up").symlink_to(source)
    assert main(["infer", str(source), "-o", "-", "-j", "2", *options]) == 3
    streamed = capfdbinary.readouterr().out
    assert infer(source, tmp_path / "table", "--adapt", "none", *options) == 3
    assert streamed == (tmp_path / "table").read_bytes()


def test_rows_come_to_standard_output_before_the_end(source: Path, tmp_path: Path) -> None:
    for number in range(8):
        shutil.copytree(source, tmp_path / "many" / f"{number}")
    command = [sys.executable, "-m", "ser_batch", "infer", str(tmp_path / "many"), "-o", "-", "-j", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert b"0/03a01Fa.wav," in process.stdout.readline()
        assert process.poll() is None


def test_options_that_do_not_fit_are_wrong_usage(source: Path, tmp_path: Path, capfd) -> None:
    for out, options, expected in [
        (tmp_path / "preds.xlsx", [], "unknown table format (suffix .xlsx); end the name with .csv, .jsonl"),
        (tmp_path / "preds.csv", ["--format", "xlsx"], "choose one of csv, parquet, jsonl"),
        (tmp_path / "preds.csv", ["--update", "--restart"], "--update cannot be combined with --restart"),
        ("-", ["--update"], "--update cannot be combined with --out -"),
    ]:
        assert infer(source, out, *options) == 2
        assert expected in capfd.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_quiet_prints_only_errors(source: Path, tmp_path: Path, capfd) -> None:
    assert infer(source, tmp_path / "preds.csv", "-q") == 0
    assert capfd.readouterr().err == ""
    (source / "broken.wav").write_bytes(b"not audio")
    assert infer(source, tmp_path / "preds.csv", "-q", "--update") == 3
    assert capfd.readouterr().err.count("\n") == 1


def test_a_missing_bundle_is_one_line(emodb_sample: Path, tmp_path: Path, capfd) -> None:
    assert infer(emodb_sample, tmp_path / "p.csv", "--model", str(tmp_path)) == 1
    assert "not a model bundle" in capfd.readouterr().err


def test_a_damaged_bundle_is_one_line(emodb_sample: Path, tmp_path: Path, capfd) -> None:
    bundle = Path(shutil.copytree(shipped_bundle().path, tmp_path / "bundle"))
    for name in ("model.tflite", "novelty.npz", "head.npz", "voices.npz", "agreement.npz"):
        whole = (bundle / name).read_bytes()
        (bundle / name).write_bytes(whole[:-7])
        assert infer(emodb_sample, tmp_path / "p.csv", "--model", str(bundle)) == 1
        output = capfd.readouterr().err
        assert output.startswith(f"error: {bundle}")
        assert output.endswith("copy the bundle again\n")
        assert output.count("\n") == 1
        assert not (tmp_path / "p.csv").exists()
        (bundle / name).write_bytes(whole)


def test_the_shipped_model_fits_its_own_corpus(emodb: Path) -> None:
    from ser_batch.corpus.labels import label_recordings

    recordings = list(recordings_of(label_recordings(list_source(str(emodb))).recordings))
    with LocalEngine(2) as engine:
        results = results_of(recordings, engine, EmbeddingOptions.of(shipped_bundle()))
    truth = [LABELS.index(recording.label or "") for recording in recordings]
    scores = score(truth, [row.best for row in classified(recordings, results)], LABELS)
    assert len(results) == 535
    assert scores.uar > 0.8  # most of it was trained on: a broken path would not come near


def test_a_terminal_on_stderr_takes_nothing_from_stdout(emodb_sample: Path, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "ser_batch", "infer", str(emodb_sample), "-o", "-", "-j", "2"]
    with open(tmp_path / "out.csv", "wb") as out:
        assert subprocess.run(command, stdout=out, stderr=theirs).returncode == 0
    os.close(theirs)
    os.close(ours)
    assert len(table(tmp_path / "out.csv")) == 14


@pytest.mark.parametrize("arguments", [["infer", "SAMPLE", "-o", "-", "-j", "1", "-q"], ["info", "BUNDLE"]])
def test_standard_output_on_a_full_disk_is_one_line(emodb_sample: Path, arguments: list[str]) -> None:
    places = {"SAMPLE": str(emodb_sample), "BUNDLE": str(shipped_bundle().path)}
    command = [sys.executable, "-m", "ser_batch", *(places.get(one, one) for one in arguments)]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 1
    assert result.stderr == "error: standard output: cannot write (No space left on device); free disk space\n"


def test_a_closed_pipe_is_one_line(emodb_sample: Path) -> None:
    command = f"{sys.executable} -m ser_batch infer {emodb_sample} -o - -j 2 | head -c 10"
    result = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True)
    assert result.stderr.count("\n") <= 1
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("absent/preds.csv", "absent: no such folder; create it, or choose another --out"),
        ("notes.txt/preds.csv", "notes.txt: is not a folder; choose another --out"),
        ("folder.csv", "folder.csv: is a folder; give a file as --out"),
    ],
)
def test_a_place_where_no_table_can_be(emodb_sample: Path, tmp_path: Path, capfd, out: str, message: str) -> None:
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.csv").mkdir()
    assert main(["infer", str(emodb_sample), "-o", str(tmp_path / out), "-j", "1"]) == 1
    assert capfd.readouterr().err == f"error: {tmp_path}/{message}\n"
    assert {path.name for path in tmp_path.rglob("*")} == {"notes.txt", "folder.csv"}
