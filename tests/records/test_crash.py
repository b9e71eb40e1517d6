"""Builds that are killed, stopped, or run out of disk: what was finished is kept, and the bytes are the same."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ser_batch.records.folder import BUILDING, open_records
from ser_batch.records.manifest import MANIFEST
from tests.conftest import fill, mount
from tests.manifests import error_rows
from tools.kill_runs import Killer, KillSummary, digests

OPTIONS = ("--front-end", "speech", "--num-shards", "2", "-j", "2")
LONGEST_STOP_SECS = 3.0


@pytest.fixture(scope="module")
def killer(emodb_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Killer:
    return Killer.beside(
        ["build-records", str(emodb_sample), "-q", *OPTIONS], tmp_path_factory.mktemp("undisturbed") / "whole"
    )


@pytest.fixture(scope="module")
def large(emodb_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Killer:
    """Enough work that a build can be met in its middle."""
    place = tmp_path_factory.mktemp("large")
    for number in range(8):
        shutil.copytree(emodb_sample, place / "source" / f"{number:03d}")
    return Killer.beside(["build-records", str(place / "source"), "-q", *OPTIONS], place / "whole")


def source_of(killer: Killer) -> Path:
    return Path(killer.arguments[1])


def whole_of(killer: Killer) -> dict[str, str]:
    """The digests of its undisturbed record folder."""
    return {name.removeprefix("out/"): digest for name, digest in killer.whole.items() if name != "out"}


def build_command(source: Path, out: Path, *options: str) -> list[str]:
    """The command line of a build, errors only."""
    return [sys.executable, "-m", "ser_batch", "build-records", str(source), "-o", str(out), "-q", *options]


def run(source: Path | str, out: Path, *options: str, said: str = "", code: int = 0) -> str:
    """Build, and look at the exit code and at what standard error must hold."""
    ended = subprocess.run(build_command(Path(source), out, *(options or OPTIONS)), capture_output=True, text=True)
    assert ended.returncode == code, ended.stderr
    assert said in ended.stderr
    return ended.stderr


def start(source: Path, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        build_command(source, out, *OPTIONS), start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def wait_for(is_there: Callable[[], object], process: subprocess.Popen[str]) -> None:
    ends = time.monotonic() + 60
    while not is_there():
        assert process.poll() is None, "the build ended before it could be met"
        assert time.monotonic() < ends
        time.sleep(0.002)


def living(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:  # it ended meanwhile
            continue
        if state != "Z" and int(of) == session:
            found.append(int(stat.parent.name))
    return found


def end_within(secs: float, process: subprocess.Popen[str]) -> str:
    """Wait for a build and all its workers; what it said."""
    ends = time.monotonic() + secs
    try:
        process.wait(secs)
        while living(process.pid) and time.monotonic() < ends:
            time.sleep(0.02)
        assert not living(process.pid), "workers outlived their parent"
    finally:
        if living(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    return process.communicate()[1]


# --- killed


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))])
def test_a_killed_build_finishes_to_the_same_bytes(killer: Killer, tmp_path: Path, seed: int) -> None:
    dice, summary = random.Random(seed), KillSummary()
    while summary.kills < 5:
        killer.kill_one_run(tmp_path / "run", 5 - summary.kills, dice, summary)
    assert not summary.wrong
    assert summary.kills == 5


def test_workers_do_not_outlive_a_killed_parent(large: Killer, tmp_path: Path) -> None:
    process = start(source_of(large), tmp_path / "out")
    wait_for(lambda: [*(tmp_path / "out").glob(f"{MANIFEST}/recordings-*")], process)
    process.kill()
    end_within(LONGEST_STOP_SECS, process)
    run(source_of(large), tmp_path / "out")
    assert digests(tmp_path / "out") == whole_of(large)


# --- stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("whom", ["parent", "group"])
@pytest.mark.parametrize("moment", ["workers are starting", "shards are written"])
def test_a_stopped_build_says_so_and_continues(
    large: Killer, tmp_path: Path, number: signal.Signals, whom: str, moment: str
) -> None:
    out = tmp_path / "out"
    pattern = {"workers are starting": f"{BUILDING}/identity.json", "shards are written": f"{MANIFEST}/recordings-*"}[
        moment
    ]
    process = start(source_of(large), out)
    wait_for(lambda: [*out.glob(pattern)], process)
    time.sleep(0.05 if moment == "workers are starting" else 0)
    if whom == "parent":
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)
    said = end_within(LONGEST_STOP_SECS, process)
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert said.startswith(f"{word}; ")
    assert said.count("\n") == 1
    assert process.returncode == 128 + number
    run(source_of(large), out)
    assert digests(out) == whole_of(large)


def when_it_is_imported(name: str, does: str) -> str:
    """Code that does something in the parent when a library is imported."""
    begin = f"class Finder:\n    def find_spec(self, name, path, target=None):\n        if name == {name!r}:\n"
    return begin + textwrap.indent(does, " " * 12) + "if not worker:\n    sys.meta_path.insert(0, Finder())\n"


def stopped_and(then: str) -> str:
    """Code that is stopped by a signal, and what becomes of that."""
    stop = "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(1)\nexcept BaseException:\n"
    return stop + f"    {then}\n"


AT_AN_AWKWARD_MOMENT = {
    "its workers start": """
if worker:
    try:
        os.mkdir(os.path.join(os.path.dirname(__file__), "first"))
    except FileExistsError:
        pass
    else:
        os.killpg(os.getpgid(0), signal.SIGINT)
    time.sleep(60)
""",
    "a library makes its own error of it": when_it_is_imported(
        "soundfile", stopped_and("raise ImportError('soundfile failed to import')")
    ),
    "a library loses it": when_it_is_imported("soundfile", stopped_and("pass") + "time.sleep(60)\n"),
    "a library prints it": when_it_is_imported("soundfile", stopped_and("sys.excepthook(*sys.exc_info())")),
    "an object is deleted": """
class Lost:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
"""
    + when_it_is_imported("soundfile", "Lost()\ntime.sleep(60)\n"),
    "the commands are imported": when_it_is_imported("typer", "os.kill(os.getpid(), signal.SIGINT)\n"),
    "the work is done": """
if not worker:
    atexit.register(os.kill, os.getpid(), signal.SIGINT)
""",
}


@pytest.mark.parametrize("moment", AT_AN_AWKWARD_MOMENT)
def test_a_stop_when_nobody_expects_it_leaves_no_traceback(
    killer: Killer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    begin = "import atexit, os, signal, sys, time\nworker = '--multiprocessing-fork' in sys.orig_argv\n"
    (tmp_path / "sitecustomize.py").write_text(begin + AT_AN_AWKWARD_MOMENT[moment])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(source_of(killer), tmp_path / "out")
    said = end_within(30, process)
    if moment == "the work is done":
        assert (said, process.returncode) == ("", 0)
        assert digests(tmp_path / "out") == whole_of(killer)
    else:
        assert said.startswith("interrupted")
        assert said.count("\n") == 1
        assert ("to go on" in said) == (moment != "the commands are imported")
        assert process.returncode == 130


# --- two at once


def test_a_second_build_into_one_folder_is_refused(large: Killer, tmp_path: Path) -> None:
    first = start(source_of(large), tmp_path / "out")
    wait_for(lambda: (tmp_path / "out" / BUILDING / "identity.json").exists(), first)
    os.killpg(first.pid, signal.SIGSTOP)
    try:
        said = run(source_of(large), tmp_path / "out", code=1)
    finally:
        os.killpg(first.pid, signal.SIGCONT)
    assert said.startswith(f"error: {tmp_path / 'out'}: another run is writing here")
    assert said.count("\n") == 1
    assert (first.communicate()[1], first.returncode) == ("", 0)
    assert digests(tmp_path / "out") == whole_of(large)


# --- disks


def remount_read_only(place: Path) -> None:
    mount("-o", "remount,ro", str(place))


@pytest.mark.parametrize("free_kib", [0, 40, 200, 500, 560])
def test_a_full_disk_is_one_line_and_room_lets_it_finish(killer: Killer, disk: Path, free_kib: int) -> None:
    out, ballast = disk / "out", fill(disk, free_kib)
    said = run(source_of(killer), out, code=1, said="No space left on device")
    assert said.startswith(f"error: {out}")
    assert said.count("\n") == 1
    for path in out.glob("recordings-*"):
        assert digests(out)[path.name] == whole_of(killer)[path.name]
    ballast.unlink()
    run(source_of(killer), out)
    assert digests(out) == whole_of(killer)


@pytest.mark.parametrize("exists", [True, False])
def test_an_output_that_cannot_be_written_is_one_line(killer: Killer, disk: Path, exists: bool) -> None:
    out = disk / "out"
    if exists:
        out.mkdir()
    remount_read_only(disk)
    said = run(source_of(killer), out, code=1)
    assert said.startswith(f"error: {out}")
    assert "Read-only file system; make the file system writable" in said
    assert said.count("\n") == 1


def test_the_source_may_be_read_only(killer: Killer, disk: Path, tmp_path: Path) -> None:
    shutil.copytree(source_of(killer), disk / "source")
    remount_read_only(disk)
    run(disk / "source", tmp_path / "out")
    assert digests(tmp_path / "out") == whole_of(killer)


# --- odd sources


@pytest.fixture
def odd(emodb_sample: Path, tmp_path: Path) -> Path:
    """Two recordings in a folder per class."""
    for label, name in [("anger", "03a01Wa.wav"), ("fear", "12a02Ac.wav")]:
        (tmp_path / "odd" / label).mkdir(parents=True)
        shutil.copy(emodb_sample / name, tmp_path / "odd" / label / name)
    return tmp_path / "odd"


BY_FOLDER = ("--labels", "folder", "--split", "none", "--front-end", "speech", "-j", "1")


def test_a_file_that_vanished_is_a_row_of_errors(emodb_sample: Path, tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    rows = [f"{emodb_sample / name},{label}" for name, label in [("03a01Wa.wav", "a"), ("12a02Ac.wav", "b")]]
    table.write_text("\n".join(["file,label", *rows, "gone.wav,a\n"]))
    said = run(table, tmp_path / "out", *BY_FOLDER, code=3)
    where = f"error: relative paths in {table} were searched in {tmp_path}\n"
    assert said == f"error: gone.wav: cannot be read: No such file or directory\n{where}"
    records = open_records(tmp_path / "out")
    assert records.n_examples() == 2
    (error,) = error_rows(records)
    assert (error["file"], error["stage"]) == ("gone.wav", "read")


@pytest.mark.parametrize(
    "name", [b"new\nline.wav", b"carriage\rreturn.wav", b'a,"b".wav', b"\xff\xfe.wav", b"a\\b.wav"]
)
def test_any_name_is_one_row_that_pandas_reads(odd: Path, tmp_path: Path, name: bytes) -> None:
    (odd / "anger" / "03a01Wa.wav").rename(odd / "anger" / os.fsdecode(name))
    run(odd, tmp_path / "out", *BY_FOLDER)
    shown = name.replace(b"\\", b"\\\\").replace(b"\xff\xfe", rb"\xff\xfe").decode()
    command = [sys.executable, "-m", "ser_batch", "info"]
    printed = subprocess.run([*command, tmp_path / "out", "--manifest"], capture_output=True, check=True)
    table = pd.read_csv(io.BytesIO(printed.stdout))
    assert sorted(table["file"]) == sorted([f"anger/{shown}", "fear/12a02Ac.wav"])
    run(odd, tmp_path / "out", *BY_FOLDER)  # what was recorded is recognised


def test_a_link_to_a_folder_above_is_a_row_of_errors(odd: Path, tmp_path: Path) -> None:
    (odd / "anger" / "up").symlink_to(odd)
    run(odd, tmp_path / "out", *BY_FOLDER, code=3)
    records = open_records(tmp_path / "out")
    assert [(row["file"], row["error"]) for row in error_rows(records)] == [
        ("anger/up", "is a link to a folder that contains it")
    ]
    assert records.n_examples() == 2


def test_a_link_to_itself_costs_no_other_file(odd: Path, emodb_sample: Path, tmp_path: Path) -> None:
    for number in range(5):
        shutil.copy(emodb_sample / "03a01Wa.wav", odd / "anger" / f"{number}.wav")
    (odd / "anger" / "loop.wav").symlink_to("loop.wav")
    run(odd, tmp_path / "out", *BY_FOLDER, code=3)
    records = open_records(tmp_path / "out")
    assert [row["file"] for row in error_rows(records)] == ["anger/loop.wav"]
    assert records.n_examples() == 7
