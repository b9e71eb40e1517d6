"""The commands as functions."""

import importlib
import inspect
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ser_batch
from ser_batch import api
from ser_batch.cli.app import app
from ser_batch.errors import SourceError

# What only a command has: how it is printed, and what another function of `api` does.
OF_THE_COMMAND = {"quiet", "verbose", "dry_run"}


def test_import_is_light() -> None:
    code = (
        "import sys, ser_batch; print(len([n for n in sys.modules if n.split('.')[0] in {'numpy', 'typer', 'keras'}]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0\n"


@pytest.mark.parametrize("name", [name for name in ser_batch.__all__ if name != "load_bundle"])
def test_options_and_defaults_are_those_of_the_command(name: str) -> None:
    (command,) = (one for one in app.registered_commands if one.callback and one.callback.__name__ == name)
    assert command.callback is not None
    of_command = inspect.signature(command.callback).parameters
    of_function = inspect.signature(getattr(api, name)).parameters
    assert of_command.keys() - OF_THE_COMMAND == of_function.keys() - {"report"}
    for option, parameter in of_function.items():
        if option not in {"report", "workers"}:
            assert parameter.default == of_command[option].default, option


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'fly'"):
        ser_batch.fly  # noqa: B018


def test_from_audio_to_predictions(emodb_sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    importlib.import_module("ser_batch.training.train")  # Keras draws random numbers while it is imported
    events: list[object] = []
    before = random.getstate(), np.random.get_state()[1].tolist(), signal.getsignal(signal.SIGINT)
    built = ser_batch.build_records(emodb_sample, tmp_path / "records", split="none", report=events.append)
    assert (built.records.n_examples(), built.was_finished) == (14, False)
    assert ser_batch.verify(tmp_path / "records", source=emodb_sample) == []
    trained = ser_batch.train(tmp_path / "records", tmp_path / "bundle", epochs=1, report=events.append)
    assert trained.bundle.labels == built.records.labels
    table = ser_batch.infer(emodb_sample, tmp_path / "preds.csv", model=tmp_path / "bundle", report=events.append)
    assert (table.summary.rows, table.summary.errors, table.n_new) == (14, 0, 14)
    assert {type(event).__name__ for event in events} == {"Note", "Progress", "Epoch"}
    assert (random.getstate(), np.random.get_state()[1].tolist(), signal.getsignal(signal.SIGINT)) == before
    assert capfd.readouterr().out == ""


def test_errors_are_those_of_the_command(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file or directory"):
        ser_batch.infer(tmp_path / "none", tmp_path / "preds.csv")


def test_a_script_without_a_guard_is_an_error_and_not_a_table_of_errors(emodb_sample: Path, tmp_path: Path) -> None:
    """Workers import the script, and cannot start while it starts workers."""
    script = tmp_path / "script.py"
    script.write_text(f"import ser_batch\nser_batch.infer({str(emodb_sample)!r}, 'preds.csv', workers=2)\n")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert ended.returncode == 1
    assert "WorkerError: worker processes cannot be started: the worker ended (exit code 1)" in ended.stderr
    assert 'if __name__ == "__main__":' in ended.stderr.splitlines()[-1]
    assert not (tmp_path / "preds.csv").exists()
