"""Options from a TOML file."""

from pathlib import Path

import pytest

from ser_batch.cli.app import main


def config(folder: Path, text: str) -> str:
    (folder / "config.toml").write_text(text)
    return str(folder / "config.toml")


def test_the_command_line_wins(emodb_sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = config(tmp_path, '[infer]\nadapt = "none"\nquiet = true\nworkers = 1\n\n[train]\nepochs = 3\n')
    assert main(["--config", path, "infer", str(emodb_sample), "-o", str(tmp_path / "a.csv")]) == 0
    assert capfd.readouterr().err == ""
    assert "voice-" not in (tmp_path / "a.csv").read_text()
    assert main(["--config", path, "infer", str(emodb_sample), "-o", str(tmp_path / "b.csv"), "--adapt", "voices"]) == 0
    assert "voice-" in (tmp_path / "b.csv").read_text()


def test_what_is_printed_is_read_back(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["verify", "records", "--source", "a b", "--source", "c", "-j", "3", "-q"]
    assert main(["--print-config", *arguments]) == 0
    printed = capfd.readouterr().out
    assert printed == '[verify]\nsource = ["a b", "c"]\nworkers = 3\nengine = "local"\nquiet = true\n'
    assert main([f"--config={config(tmp_path, printed)}", "--print-config", "verify", "records"]) == 0
    assert capfd.readouterr().out == printed
    assert main(["--config", config(tmp_path, printed), "--print-config", "verify", "records", "--source", "d"]) == 0
    assert 'source = ["d"]' in capfd.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[infer]\nadpt = 1", "infer has no option adpt; did you mean adapt?"),
        ("[predict]\nadapt = 1", "predict: is not the table of a command (build-records, verify"),
        ("adapt = 1", "adapt: is not the table of a command"),
        ("[infer]\nquiet = 1", "infer.quiet: should be true or false"),
        ("[infer]\nadapt = true", "infer.adapt: should be text or a number"),
        ("[infer]\nadapt = ['none']", "infer.adapt: takes one value, not a list"),
        ("[infer]\nadapt = 1979-05-27", "infer.adapt: should be text, a number, true or false"),
        ("[infer", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], text: str, expected: str) -> None:
    path = config(tmp_path, text)
    assert main(["--config", path, "infer", "x", "-o", str(tmp_path / "p.csv")]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith(f"error: --config {path}: {expected}")


def test_wrong_usage_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--config"], "--config: give a TOML file"),
        (["--config", str(tmp_path / "none.toml"), "info", "x"], "cannot be read"),
        (["--print-config"], "--print-config: give a command after it: build-records, verify"),
        (["--print-config", "compare"], "compare: Missing argument"),
        (["--print-config", "infer", "x", "-o", "y", "-j", "many"], "infer: Invalid value"),
    ):
        assert main(arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert expected in line
