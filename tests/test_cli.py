"""The command line as a person meets it: in a process of its own, or through `main`."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ser_batch.cli import app, main
from tests.conftest import write_tone


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ser_batch", *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    heavy = ["tensorflow", "keras", "librosa", "pandas", "numpy", "scipy"]
    code = (
        "import sys; from ser_batch.cli import main; code = main([sys.argv[1]]); "
        f"sys.exit(code or ','.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_help_answers_at_once() -> None:
    times = []
    for _ in range(3):
        began = time.perf_counter()
        assert run("--help").returncode == 0
        times.append(time.perf_counter() - began)
    assert min(times) < 1.0


def test_version_is_one_line() -> None:
    assert re.fullmatch(r"ser-batch \d+\.\d+\.\d+\n", run("--version").stdout)


def test_every_command_says_what_it_does_and_gives_an_example() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "Example: ser-batch " in (command.callback.__doc__ or "")


def test_wrong_usage_exits_2() -> None:
    assert run("build-records").returncode == 2
    assert run("no-such-command").returncode == 2


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no audio in it"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "1 other file"),
        (lambda folder: write_tone(folder / "one.wav"), "one folder per class"),
    ],
    ids=["empty", "no audio", "flat, no labels"],
)
def test_a_source_without_labelled_audio_is_one_line(tmp_path: Path, capfd, make, says: str) -> None:
    source = tmp_path / "angry"
    source.mkdir()
    make(source)
    assert main(["build-records", str(source), "-o", str(tmp_path / "out")]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert says in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_missing_source_is_named(tmp_path: Path, capfd) -> None:
    assert main(["build-records", str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
    assert "absent: no such file or directory" in capfd.readouterr().err


@pytest.mark.parametrize(("usable", "code"), [(True, 3), (False, 1)])
def test_a_build_with_failures_ends_with_the_same_code_every_time(
    tmp_path: Path, capfd, usable: bool, code: int
) -> None:
    for name in ("anger/one", "fear/two"):
        write_tone(tmp_path / "in" / f"{name}.wav", level=0.5 if usable else 0.0)
    (tmp_path / "in" / "anger" / "empty.wav").touch()
    for _ in range(2):
        assert main(["build-records", str(tmp_path / "in"), "-o", str(tmp_path / "out"), "-j", "1"]) == code
    assert ("already finished" in capfd.readouterr().err) == usable


def test_an_output_with_other_files_is_left_alone(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("precious")
    for arguments in ([], ["--restart"]):
        assert main(["build-records", str(emodb_sample), "-o", str(out), "-q", *arguments]) == 1
        assert "chapter1.tex" in capfd.readouterr().err
    assert [path.name for path in out.iterdir()] == ["chapter1.tex"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--front-end", "nope"], "choose one of seed, speech"),
        (["--fractions", "1,2"], "as 0.8,0.1,0.1"),
        (["--fractions", "0.5,0.1,0.1"], "sum to 1"),
        (["--fractions", "nan,0.5,0.5"], "sum to 1"),
        (["--split", "nope"], "choose one of speakers, random, none"),
        (["--labels", "nope"], "a known corpus"),
        (["--channel", "left"], "the number of a channel"),
    ],
)
def test_bad_option_values_say_what_would_do(tmp_path: Path, emodb_sample: Path, capfd, arguments, says: str) -> None:
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert says in capfd.readouterr().err


def test_lines_are_never_wrapped(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long_name = tmp_path / ("a" * 120)
    assert main(["infer", str(long_name), "-o", str(tmp_path / "p.csv")]) == 1
    assert f"{long_name}: no such file or directory\n" in capfd.readouterr().err
