"""The command line: in its own process, or through `main`."""

import io
import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import typer

from ser_batch.cli.app import app, main
from ser_batch.models.bundles import shipped_bundle
from tests.conftest import write_tone


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ser_batch", *arguments], capture_output=True, text=True, **options)


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str) -> None:
    heavy = ["tensorflow", "keras", "librosa", "pandas", "numpy", "scipy"]
    code = (
        "import sys; from ser_batch.cli.app import main; code = main([sys.argv[1]]); "
        f"sys.exit(code or ','.join(m for m in {heavy} if m in sys.modules) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code, option], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["build-records", "SAMPLE", "-o", "OUT", "-j", "1"],
        ["infer", "SAMPLE/03a01Wa.wav", "-o", "OUT.csv", "-j", "1"],
        ["info", str(shipped_bundle().path)],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_needs_no_tensorflow_does_not_import_it(tmp_path: Path, emodb_sample: Path, arguments: list[str]) -> None:
    code = (
        "import sys; from ser_batch.cli.app import main; code = main(sys.argv[1:]); "
        "sys.exit(code or ','.join({'tensorflow', 'keras'} & {*sys.modules}) or 0)"
    )
    places = {"SAMPLE": str(emodb_sample), "OUT": str(tmp_path / "out")}
    given = [re.sub("SAMPLE|OUT", lambda match: places[match[0]], one) for one in arguments]
    result = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True)
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


def test_every_command_has_a_description_and_an_example() -> None:
    for command in app.registered_commands:
        assert command.callback is not None
        assert "Example: ser-batch " in (command.callback.__doc__ or "")


def test_wrong_usage_exits_2() -> None:
    assert run("build-records").returncode == 2
    assert run("no-such-command").returncode == 2


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda folder: None, "no audio in it"),
        (lambda folder: (folder / "notes.txt").write_text("x"), "1 other file"),
        (lambda folder: write_tone(folder / "one.wav"), "one folder per class"),
    ],
    ids=["empty", "no audio", "flat, no labels"],
)
def test_a_source_without_labelled_audio_is_one_line(tmp_path: Path, capfd, make, expected: str) -> None:
    source = tmp_path / "angry"
    source.mkdir()
    make(source)
    assert main(["build-records", str(source), "-o", str(tmp_path / "out")]) == 1
    error = capfd.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
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
    ("arguments", "expected"),
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
def test_bad_option_values_name_the_valid_ones(
    tmp_path: Path, emodb_sample: Path, capfd, arguments, expected: str
) -> None:
    assert main(["build-records", str(emodb_sample), "-o", str(tmp_path / "out"), *arguments]) == 2
    assert expected in capfd.readouterr().err


def test_lines_are_never_wrapped(tmp_path: Path, capfd, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    long_name = tmp_path / ("a" * 120)
    assert main(["infer", str(long_name), "-o", str(tmp_path / "p.csv")]) == 1
    assert f"{long_name}: no such file or directory\n" in capfd.readouterr().err


def test_columns_are_named_and_so_is_the_folder_of_missing_files(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    table = tmp_path / "in" / "table.csv"
    table.parent.mkdir()
    rows = [
        f"{path};{label};1\n" for path, label in zip(sorted(emodb_sample.iterdir()), 7 * ["joy", "fear"], strict=True)
    ]
    table.write_text("Path;Emotion;Take\n" + "".join(rows) + "x/absent.wav;joy;2\n")
    for command in (["build-records", str(table), "-o", str(tmp_path / "r")], ["infer", str(table), "-o", "-"]):
        assert main([*command, "-j", "1"]) == 3
        output = capfd.readouterr().err.splitlines()
        assert f"warning: {table}: column 'Path' is used as file" in output
        assert f"warning: {table}: columns that are not used: 'Take'" in output
        assert (f"warning: {table}: column 'Emotion' is used as label" in output) == (command[0] == "build-records")
        assert "error: x/absent.wav: cannot be read: No such file or directory" in output
        assert f"error: relative paths in {table} were searched in {table.parent}" in output
    capfd.readouterr()
    assert main(["info", str(tmp_path / "r"), "--errors"]) == 0
    assert str(tmp_path) not in capfd.readouterr().out


def test_what_the_label_map_leaves_out_is_counted_and_no_failure(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    (tmp_path / "map.csv").write_text("from,to\nboredom,(drop)\nneutral,(drop)\nfear,anxiety\n")
    command = ["build-records", str(emodb_sample), "-o", str(tmp_path / "r"), "--label-map", str(tmp_path / "map.csv")]
    assert main([*command, "-j", "1"]) == 0
    output = capfd.readouterr().err.splitlines()
    assert "labels from emodb names: anger, anxiety, disgust, happiness, sadness" in output
    assert "left out by the label map: 4 recordings (boredom 2, neutral 2)" in output
    assert json.loads((tmp_path / "r" / "provenance.json").read_text())["plan"]["left_out"] == {
        "boredom": 2,
        "neutral": 2,
    }
    assert main(["verify", str(tmp_path / "r"), "--source", str(emodb_sample), "-j", "1"]) == 0
    assert main([*command, "-j", "1"]) == 0
    assert "already finished" in capfd.readouterr().err


def test_tables_of_odd_names_read_in_pandas(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    """Labels by its defaults; files that are called as a missing value or a number as described in the README."""
    samples = sorted(emodb_sample.iterdir())[:4]
    names = ["NA", "null", "001", "nan.wav"]
    for sample, name in zip(samples, names, strict=True):
        shutil.copy(sample, tmp_path / name)
    rows = zip(names, ["None", "joy", "fear", "joy"], strict=True)
    (tmp_path / "t.csv").write_text("file,label\n" + "".join(f"{name},{label}\n" for name, label in rows))
    assert main(["build-records", str(tmp_path / "t.csv"), "-o", str(tmp_path / "r"), "-j", "1", "-q"]) == 3
    capfd.readouterr()
    assert main(["info", str(tmp_path / "r"), "--manifest"]) == 0
    printed = capfd.readouterr().out
    manifest = pandas.read_csv(io.StringIO(printed))
    assert sorted(manifest["label"]) == ["fear", "joy", "joy"]
    manifest = pandas.read_csv(io.StringIO(printed), dtype=str, keep_default_na=False)
    assert sorted(manifest["file"]) == ["001", "nan.wav", "null"]
    assert main(["infer", str(tmp_path / "t.csv"), "-o", str(tmp_path / "p.csv"), "-j", "1", "-q"]) == 0
    table = pandas.read_csv(tmp_path / "p.csv", converters={"file": str})
    assert list(table["file"]) == names
    assert table["confidence"].dtype == float


def path_parameters() -> list[list[str]]:
    """For every command and each of its parameters that takes a path: a call that gives a URL for it."""
    calls = []
    for name, command in typer.main.get_command(app).commands.items():
        arguments = [one.name for one in command.params if one.param_type_name == "argument"]
        calls += [[name, *("hdfs://b/x" if one == this else "." for one in arguments)] for this in arguments]
        options = {option for one in command.params for option in one.opts}
        of_paths = {"--out", "-o", "--labels", "--label-map", "--source", "--model", "--recipe"}
        for option in sorted(options & of_paths):
            calls.append([name, *("." for _ in arguments), option, "hdfs://b/x"])
    return calls


@pytest.mark.parametrize(
    "arguments",
    [
        *path_parameters(),
        ["infer", "@s3://b/list.txt", "-o", "-"],
        ["infer", ".", "--out=file:///tmp/p.csv"],
        ["infer", ".", "-ohttps://b/p.csv"],
    ],
    ids=" ".join,
)
def test_a_url_is_refused_wherever_a_path_stands(tmp_path: Path, capfd, monkeypatch, arguments: list[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert re.fullmatch(
        r"error: .*://.*: is a URL \(\w+://\), and only local files(?: are supported here; give a local path|"
        r", s3://, gs://(?: and az://|, az://, http:// and https://) are supported here; copy it to one of these)\n",
        error,
    )
    assert list(tmp_path.iterdir()) == []


def test_what_only_looks_like_a_url_is_none(tmp_path: Path, emodb_sample: Path) -> None:
    command = ["build-records", str(emodb_sample), "-o", str(tmp_path / "gs:"), "--dry-run", "-q"]
    assert main([*command, "--labels", "regex:(?P<speaker>..)(?P<label>.)(?!://)"]) == 0


def test_several_sources(tmp_path: Path, emodb_sample: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    samples = sorted(emodb_sample.iterdir())
    for sample, folder in zip(samples, 7 * ["one", "two"], strict=True):
        (tmp_path / folder).mkdir(exist_ok=True)
        shutil.copy(sample, tmp_path / folder)
    (tmp_path / "more.csv").write_text(f"file\n{samples[0]}\n")
    single = f"two/{samples[1].name}"
    assert main(["infer", "one", single, "more.csv", "-o", "p.csv", "-j", "1", "-q"]) == 0
    assert list(pandas.read_csv("p.csv")["file"]) == [f"one/{s.name}" for s in samples[::2]] + [single, str(samples[0])]
    assert main(["infer", "one", single, "more.csv", "-o", "p.csv", "-j", "1"]) == 0
    assert "already finished" in capfd.readouterr().err
    assert main(["build-records", "one", "two", "-o", "r", "-j", "1", "-q"]) == 0
    assert set(pandas.read_parquet("r/manifest")["file"]) == {
        str(path) for folder in ("one", "two") for path in Path(folder).iterdir()
    }
    assert main(["verify", "r", "--source", "one", "--source", "two", "-j", "1"]) == 0
    assert main(["infer", single, single, "-o", "-", "-j", "1"]) == 3
    assert f"error: {single}: is listed again by {single}, after {single}" in capfd.readouterr().err
