"""The commands as functions."""

import doctest
import importlib
import inspect
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

import ser_batch
from ser_batch import api
from ser_batch.cli.app import app
from ser_batch.errors import RecordsError, SourceError, UsageError
from ser_batch.records.folder import RecordFolder
from tests.folding import made_predictions, written

# What only a command has: how it is printed, and what another function of `api` does.
OF_THE_COMMAND = {"quiet", "verbose", "dry_run", "tracks"}


def test_import_is_light() -> None:
    code = (
        "import sys, ser_batch; print(len([n for n in sys.modules if n.split('.')[0] in {'numpy', 'typer', 'keras'}]))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "0\n"


@pytest.mark.parametrize("name", ser_batch._COMMANDS)
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
    # Lines of the workers may come after it.
    (line,) = [line for line in ended.stderr.splitlines() if "WorkerError: " in line]
    assert "worker processes cannot be started: the worker ended (exit code 1)" in line
    assert 'if __name__ == "__main__":' in line
    assert not (tmp_path / "preds.csv").exists()


# --- notebooks


def test_the_examples_of_the_docstrings_are_true(monkeypatch: pytest.MonkeyPatch) -> None:
    from ser_batch import notebooks

    monkeypatch.chdir(Path(__file__).parent.parent)
    result = doctest.testmod(notebooks)
    assert result.attempted >= 4
    assert result.failed == 0


def test_a_waveform_is_predicted_as_its_file(emodb_sample: Path, tmp_path: Path) -> None:
    model = ser_batch.load_bundle()
    assert repr(model).startswith(f"<Model {model.short_fingerprint}: anger, boredom")
    path = sorted(emodb_sample.glob("*.wav"))[0]
    samples, rate_hz = soundfile.read(path)
    of_file, of_waveform = model.predict(path), model.predict(samples, rate_hz)
    shares = [f"p_{label}" for label in model.labels]
    np.testing.assert_allclose(of_waveform[shares], of_file[shares], atol=1e-6)
    assert of_waveform.file.tolist() == ["waveform"]
    assert of_file.start.dt.total_seconds().tolist() == [0.0]
    assert of_file.duration[0] == pytest.approx(len(samples) / rate_hz, abs=1e-4)
    (tmp_path / "none.wav").write_text("no audio")
    several = model.predict([path, tmp_path / "none.wav"], labels="anger,sadness")
    assert several.error.notna().tolist() == [False, True]
    assert several.p_anger[0] + several.p_sadness[0] == pytest.approx(1, abs=1e-5)
    with pytest.raises(UsageError, match=r"needs rate_hz and the shape \(samples,\); it has \(2, 5\)"):
        model.predict(np.zeros((2, 5)), 16_000)
    with pytest.raises(UsageError, match="rate_hz is for a waveform"):
        model.predict(path, 16_000)


def test_records_are_a_dataset_and_a_frame(kept_records: RecordFolder) -> None:
    records = ser_batch.load_records(kept_records.path)
    assert repr(records) == f"<Records {kept_records.path}: {kept_records.summary()}>"
    manifest = records.manifest()
    assert len(manifest) == kept_records.n_examples()
    of_split = manifest[manifest.split == "train"]
    elements = list(records.to_dataset("train"))
    assert [records.labels[int(label)] for _, label in elements] == of_split.label.tolist()
    assert {tuple(log_mel.shape[:1]) for log_mel, _ in elements} == {(records.front_end.n_mels,)}
    with pytest.raises(RecordsError, match="no examples in the split 'dev'"):
        records.to_dataset("dev")


def test_a_table_of_any_format_is_one_frame(emodb_sample: Path, tmp_path: Path) -> None:
    frames = []
    for name in ("preds.csv", "preds.parquet", "preds.jsonl"):
        ser_batch.infer(emodb_sample, tmp_path / name, workers=1)
        frames.append(ser_batch.read_predictions(tmp_path / name))
    assert len(frames[0]) == 14
    for frame in frames[1:]:
        pd.testing.assert_frame_equal(frame, frames[0])


def test_pictures_leave_the_settings_of_a_notebook(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    code = (
        "import matplotlib as mpl; mpl.use('pdf'); before = dict(mpl.rcParams); import ser_batch; "
        f"ser_batch.report({str(folder)!r}, {str(tmp_path / 'page.html')!r}, figures={str(tmp_path / 'figures')!r}); "
        "assert mpl.get_backend() == 'pdf'; assert dict(mpl.rcParams) == before"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # before any import of plots
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "figures").iterdir())) == 8  # four pictures, two formats
