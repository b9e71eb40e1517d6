"""Exported models give in their own runtimes what ser-batch predicts, on real recordings."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import soundfile
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from ser_batch import api
from ser_batch.audio.logmels import log_mel
from ser_batch.cli.app import main
from ser_batch.models.bundles import Bundle, open_bundle, shipped_bundle
from ser_batch.notebooks import read_predictions
from tests.conftest import made_once

TOLERANCE = 1e-4  # `export` promises 1e-3


@pytest.fixture(
    scope="module", params=["functionals", *(pytest.param(one, marks=pytest.mark.slow) for one in ("default", "seed"))]
)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> Bundle:
    """The shipped model, and a bundle of each other recipe, trained for an epoch."""
    if request.param == "functionals":
        return shipped_bundle()

    def train(folder: Path) -> None:
        front_end = "seed" if request.param == "seed" else "speech"
        api.build_records(emodb_sample, folder / "records", front_end=front_end)
        api.train(folder / "records", folder / "bundle", recipe=request.param, epochs=1)

    return open_bundle(made_once(tmp_path_factory, f"exported-{request.param}", train) / "bundle")


@pytest.fixture(scope="module")
def recordings(emodb_sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two recordings of EmoDB, one of 26 seconds made of several, and one of 50 ms."""
    folder = tmp_path_factory.mktemp("recordings")
    parts = [soundfile.read(path, dtype="float32")[0] for path in sorted(emodb_sample.glob("*.wav"))]
    made = {"one": parts[0], "two": parts[7], "long": np.concatenate(parts * 2)[: 26 * 16_000], "short": parts[0][:800]}
    for name, samples in made.items():
        soundfile.write(folder / f"{name}.wav", samples, 16_000, subtype="FLOAT")
    return folder


def predicted(bundle: Bundle, recordings: Path, folder: Path) -> dict[str, np.ndarray]:
    """The probabilities of `infer`, each recording alone."""
    api.infer(recordings, folder / "table.parquet", model=bundle.path, adapt="none", workers=1)
    frame = read_predictions(folder / "table.parquet")
    columns = [f"p_{label}" for label in bundle.labels]
    return {Path(file).stem: row for file, row in zip(frame["file"], frame[columns].to_numpy(), strict=True)}


def runtimes(folder: Path) -> dict[str, Callable[[Path], Callable[[np.ndarray], np.ndarray]]]:
    def litert(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        run = Interpreter(str(path)).get_signature_runner()
        return lambda values: run(log_mel=values)["probabilities"]

    def onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        session = onnxruntime.InferenceSession(str(path))
        return lambda values: session.run(None, {"log_mel": values})[0]

    def saved_model(path: Path) -> Callable[[np.ndarray], np.ndarray]:
        serve = tf.saved_model.load(str(path.parent)).signatures["serving_default"]
        return lambda values: serve(log_mel=tf.constant(values))["probabilities"].numpy()

    return {"litert": litert, "onnx": onnx, "saved-model": saved_model}


@pytest.mark.parametrize("export_format", ["saved-model", "litert", "onnx"])
def test_a_log_mel_gets_the_probabilities_of_infer(
    bundle: Bundle, export_format: str, recordings: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "exported"
    assert main(["export", str(bundle.path), "-o", str(out), "--format", export_format]) == 0
    assert "written; largest difference of a probability" in capfd.readouterr().err
    about = json.loads((out / "export.json").read_text())
    assert about["labels"] == list(bundle.labels)
    assert about["front_end"] == bundle.front_end.to_json()
    assert about["input"]["name"] == "log_mel"
    run = runtimes(out)[export_format](out / about["file"])
    expected = predicted(bundle, recordings, tmp_path)
    for name in ("one", "two"):
        samples, rate_hz = soundfile.read(recordings / f"{name}.wav", dtype="float32")
        found = run(log_mel(samples, rate_hz, bundle.front_end)[None])[0]
        np.testing.assert_allclose(found, expected[name], rtol=0, atol=TOLERANCE)
    assert np.abs(expected["one"] - expected["two"]).max() > 2 * TOLERANCE


def test_a_waveform_gets_the_probabilities_of_infer(bundle: Bundle, recordings: Path, tmp_path: Path) -> None:
    api.export(bundle.path, tmp_path / "exported", export_format="saved-model", waveform=True)
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    rate_hz = bundle.front_end.rate_hz
    for path in recordings.glob("*.wav"):  # at the front end's rate, because the model does not resample
        samples = soundfile.read(path, dtype="float32")[0]
        soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    expected = predicted(bundle, recordings, tmp_path)
    for name, probabilities in expected.items():
        samples = soundfile.read(recordings / f"{name}.wav", dtype="float32")[0]
        found = serve(waveform=tf.constant(samples))["probabilities"].numpy()
        np.testing.assert_allclose(found, probabilities, rtol=0, atol=TOLERANCE, err_msg=name)


def test_a_saved_model_takes_batches(recordings: Path, tmp_path: Path) -> None:
    api.export("shipped", tmp_path / "exported", export_format="saved-model")
    serve = tf.saved_model.load(str(tmp_path / "exported")).signatures["serving_default"]
    samples, rate_hz = soundfile.read(recordings / "one.wav", dtype="float32")
    one = log_mel(samples, rate_hz, shipped_bundle().front_end)
    longer = np.pad(one, [(0, 0), (0, 50)], constant_values=-1000.0)
    found = serve(log_mel=tf.constant(np.stack([longer, longer])))["probabilities"].numpy()
    alone = serve(log_mel=tf.constant(one[None]))["probabilities"].numpy()
    np.testing.assert_allclose(found, np.repeat(alone, 2, axis=0), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "pickle"], "--format pickle: no such format; choose one of saved-model, litert, onnx"),
        (["--format", "onnx", "--waveform"], "--waveform is for --format saved-model, not for onnx"),
        (["--format", "litert", "-o", "."], ".: exists; give another folder"),
        (["--format", "litert", "-o", "/proc/exported"], "/proc"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "shipped", "-o", str(tmp_path / "out"), *arguments]) in (1, 2)
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert list(tmp_path.iterdir()) == []


def test_a_model_with_other_probabilities_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    monkeypatch.setitem(
        sys.modules["ser_batch.models.exports"].__dict__["_RUNNERS"], "litert", lambda out: lambda values: np.eye(7)
    )
    assert main(["export", "shipped", "-o", str(tmp_path / "out"), "--format", "litert"]) == 1
    assert "not written; probabilities would differ by" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_missing_converter_is_named(tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['tf2onnx'] = None\n"
        "from ser_batch.cli.app import main\n"
        f"sys.exit(main(['export', 'shipped', '-o', {str(tmp_path / 'out')!r}, '--format', 'onnx']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: --format onnx: tf2onnx is missing; pip install 'ser-batch[onnx]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
