"""Inferences that are killed, stopped, or run out of disk: what was finished is kept, and the bytes are the same."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.formatting import pluralize
from ser_batch.inference.embeddings import read_part
from ser_batch.inference.results import parts_folder
from tests.conftest import fill
from tests.records.test_crash import end_within, remount_read_only

REPOSITORY = Path(__file__).parents[2]
OPTIONS = ("-j", "2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> Path:
    place = tmp_path_factory.mktemp("stops") / "source"
    for number in range(4):
        shutil.copytree(emodb_sample, place / f"{number}")
    (place / "1" / "broken.wav").write_text("not audio")
    return place


@pytest.fixture(scope="module")
def whole(source: Path) -> bytes:
    out = source.parent / "whole.csv"
    assert main(["infer", str(source), "-o", str(out), "-q", *OPTIONS]) == 3
    return out.read_bytes()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_killed_inference_finishes_to_the_same_bytes(source: Path, tmp_path: Path, seed: int) -> None:
    options = ["--kills", "9", "--seed", str(seed), "--out", "preds.csv", "--", "infer", source, *OPTIONS]
    command = [sys.executable, "-m", "tools.kill_runs", tmp_path / "work", *options]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "9 kills of " in ended.stdout
    assert "\n0 mismatches" in ended.stdout


def n_done(table: Path) -> int:
    """How many results of a table are on disk."""
    return sum(len(read_part(path)) for path in (parts_folder(table) / "results").glob("*.parquet"))


def wait_for(is_there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 120
    while not is_there():
        assert process.poll() is None, "it ended before it could be met"
        assert time.monotonic() < ends
        time.sleep(0.005)


@pytest.mark.parametrize(("number", "whom"), [(signal.SIGINT, "group"), (signal.SIGTERM, "parent")])
def test_a_stopped_inference_reports_it_and_continues(
    source: Path, whole: bytes, tmp_path: Path, number: signal.Signals, whom: str, capfd
) -> None:
    out = tmp_path / "preds.csv"
    command = [sys.executable, "-m", "ser_batch", "infer", str(source), "-o", str(out), "-q", *OPTIONS]
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: n_done(out) > 10, process)
    if whom == "group":
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output = end_within(10, process)
    assert process.returncode == 128 + number
    assert re.fullmatch(r"(interrupted|terminated); to go on, run the same command again, without --restart\n", output)
    assert {path.name for path in tmp_path.iterdir()} == {parts_folder(out).name}
    known = n_done(out)
    assert known
    assert main(["infer", str(source), "-o", str(out), *OPTIONS]) == 3
    assert out.read_bytes() == whole
    assert f"{pluralize(known, 'recording')} already predicted, {57 - known} new" in capfd.readouterr().err


def test_a_second_inference_into_one_table_is_refused(source: Path, whole: bytes, tmp_path: Path, capfd) -> None:
    out = tmp_path / "preds.csv"
    command = [sys.executable, "-m", "ser_batch", "infer", str(source), "-o", str(out), "-q", *OPTIONS]
    first = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    wait_for((parts_folder(out) / "identity.json").exists, first)
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        assert main(["infer", str(source), "-o", str(out), "-q"]) == 1
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert f"error: {out}: another run is writing here" in capfd.readouterr().err
    first.communicate(timeout=120)
    assert first.returncode == 3
    assert out.read_bytes() == whole


@pytest.mark.parametrize("free_kib", [0, 8, 40, 56, 64, 76])
def test_a_full_disk_is_one_line_and_room_lets_it_finish(
    source: Path,
    whole: bytes,
    disk: Path,
    free_kib: int,
    capfd,
) -> None:
    out, ballast = disk / "preds.csv", fill(disk, free_kib)
    command = ["infer", str(source), "-o", str(out), "-q", *OPTIONS]
    assert main(command) == 1
    output = capfd.readouterr().err
    assert re.match(
        rf"error: {disk}/[^ ]*: No space left on device; free disk space, then run the same command again", output
    )
    assert output.count("\n") == 1
    assert not out.exists()
    ballast.unlink()
    assert main(command) == 3
    assert out.read_bytes() == whole


def test_a_place_that_cannot_be_written_is_one_line(source: Path, disk: Path, capfd) -> None:
    remount_read_only(disk)
    assert main(["infer", str(source), "-o", str(disk / "preds.csv"), "-q"]) == 1
    output = capfd.readouterr().err
    assert output.startswith(f"error: {disk}/.preds.csv.parts: Read-only file system; make the file system writable")
    assert output.count("\n") == 1
