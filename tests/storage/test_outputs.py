"""Outputs that are begun, continued and finished; and what is printed when the system refuses."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.errors import OutputError
from ser_batch.storage.outputs import LOCK, OutputKind, ResumableOutput, open_output, read_own_json
from ser_batch.storage.writing import open_atomically, os_error_line, write_json

KIND = OutputKind(
    "a thing", "done.json", "parts", {"done.json", "data"}.__contains__, lambda p: read_own_json(p / "done.json")
)
REPOSITORY = Path(__file__).parents[2]


def finish(output: ResumableOutput, identity: dict[str, object]) -> None:
    write_json(output.path / "done.json", identity)
    output.finish()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_new_output_is_begun_and_finished(tmp_path: Path) -> None:
    with open_output(tmp_path / "out", KIND, {"seed": 1}) as output:
        assert (output.is_finished, names(output.parts)) == (False, {"identity.json"})
        finish(output, {"seed": 1})
    assert names(tmp_path / "out") == {LOCK, "done.json"}
    with open_output(tmp_path / "out", KIND, {"seed": 1}) as output:
        assert output.is_finished


@pytest.mark.parametrize("finished", [True, False])
def test_what_was_made_from_something_else_is_refused_and_kept(tmp_path: Path, finished: bool) -> None:
    with open_output(tmp_path, KIND, {"seed": 1, "recipe": {"epochs": 3}}) as output:
        (output.parts / "1").write_text("a part")
        if finished:
            finish(output, {"seed": 1, "recipe": {"epochs": 3}})
    before = names(tmp_path)
    with (
        pytest.raises(
            OutputError, match=r"differences: seed was 1, now 2; recipe epochs was 3, now 4\. Give --restart"
        ),
        open_output(tmp_path, KIND, {"seed": 2, "recipe": {"epochs": 4}}),
    ):
        pass
    assert names(tmp_path) == before
    with open_output(tmp_path, KIND, {"seed": 2}, restart=True) as output:
        assert (output.is_finished, names(output.parts)) == (False, {"identity.json"})


def test_what_a_lost_worker_left_is_not_in_a_finished_output(tmp_path: Path) -> None:
    with open_output(tmp_path, KIND, {"seed": 1}) as output:
        (tmp_path / ".data.0bbfd16a-17.partial").write_text("half")
        write_json(tmp_path / KIND.complete, {"seed": 1})
        output.finish()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({KIND.complete, LOCK})


def test_what_lost_nothing_is_begun_anew(tmp_path: Path) -> None:
    with open_output(tmp_path, KIND, {"seed": 1}):
        pass
    with open_output(tmp_path, KIND, {"seed": 2}) as output:
        assert read_own_json(output.parts / "identity.json") == {"seed": 2}


@pytest.mark.parametrize("restart", [True, False])
def test_other_files_are_left_alone(tmp_path: Path, restart: bool) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not part of a thing"), open_output(tmp_path, KIND, {}, restart):
        pass
    assert names(tmp_path) == {"thesis.txt"}


def test_two_runs_do_not_share_an_output(tmp_path: Path) -> None:
    """The lock is a file, which network file systems pass on to other hosts; a lock on a folder they do not."""
    second = open_output(tmp_path, KIND, {})
    with open_output(tmp_path, KIND, {}), pytest.raises(OutputError, match="another run is writing here"), second:
        pass
    with open_output(tmp_path, KIND, {}):
        pass


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free disk space"),
        (errno.EACCES, "change its permissions"),
        (errno.EMFILE, "allow more open files"),
        (errno.ENOENT, "check why it is missing"),
        (errno.EIO, "check the disk"),
    ],
)
def test_an_error_of_the_system_names_the_file_and_what_to_do(tmp_path: Path, number: int, advice: str) -> None:
    with pytest.raises(OutputError) as caught, open_output(tmp_path, KIND, {}), open_atomically(tmp_path / "data"):
        raise OSError(number, os.strerror(number))
    output = str(caught.value)
    assert output.startswith(f"{tmp_path / 'data'}: {os.strerror(number)}; {advice}")
    assert "--restart" not in output  # it would throw away what was finished
    assert "\n" not in output


def test_an_error_without_a_file_names_the_place() -> None:
    assert os_error_line(OSError(errno.ENOSPC, "No space left on device"), "out").startswith("out: No space left")


FEW_FILES = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))"
NO_TEMPORARY_FOLDER = "import tempfile; tempfile._candidate_tempdir_list = lambda: ['/nowhere']"


def run(*arguments: object, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, which begins with other code."""
    code = f"{before}\nimport sys; from ser_batch.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, timeout=120)


def test_too_many_open_files_are_one_line(emodb_sample: Path, tmp_path: Path) -> None:
    ended = run("infer", emodb_sample, "-o", tmp_path / "preds.csv", "-q", "-j", "8", before=FEW_FILES)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert "Too many open files; allow more open files (ulimit -n) or give fewer --workers" in ended.stderr
    assert run("infer", emodb_sample, "-o", tmp_path / "preds.csv", "-q").returncode == 0


def test_a_missing_temporary_folder_is_one_line(emodb_sample: Path) -> None:
    ended = run("infer", emodb_sample, "-o", "-", "-q", before=NO_TEMPORARY_FOLDER)
    assert (ended.returncode, ended.stderr.count("\n")) == (1, 1)
    assert ended.stderr.startswith("error: no temporary folder can be made")
    assert ended.stderr.endswith("set TMPDIR to a folder\n")


def test_a_shard_that_cannot_be_read_is_one_line(emodb_sample: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "records"
    assert main(["build-records", str(emodb_sample), "-o", str(out), "-q", "--split", "none"]) == 0
    (shard, *_) = sorted(out.glob("*.tfrecord-*"))
    content = shard.read_bytes()
    shard.unlink()
    shard.symlink_to("/proc/self/mem")  # opens, and cannot be read
    capfd.readouterr()
    for command in (
        ["verify", str(out)],
        ["evaluate", "ser_batch/shipped", str(out), "-o", str(tmp_path / "e"), "--split", "train"],
    ):
        assert main([*command, "-q"]) == 1
        output = capfd.readouterr().err
        assert str(shard) in output or shard.name in output
        assert "Traceback" not in output
    shard.unlink()
    shard.write_bytes(content)
