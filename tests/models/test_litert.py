"""The LiteRT network gives what the Keras network gives, for real speech of any length."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_batch.audio.frontends import SEED, SPEECH, FrontEnd
from ser_batch.audio.logmels import log_mel
from ser_batch.errors import BundleError
from ser_batch.models.bundles import RUNTIME, Bundle, open_bundle, shipped_bundle
from ser_batch.models.exports import convert
from ser_batch.models.litert import RuntimeNetwork
from ser_batch.models.networks.crnn import seed_crnn
from ser_batch.models.networks.families import features_of, functionals_of
from ser_batch.models.networks.functionals import functional_network
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.normalisation import Scale, identity_scale
from ser_batch.training.features import traced

N_FUNCTIONALS = 1365


def log_mels(folder: Path, front_end: FrontEnd) -> list[np.ndarray]:
    """Of the first ten seconds of every recording."""
    found = []
    for path in sorted(folder.glob("*.wav")):
        samples, rate_hz = soundfile.read(path, dtype="float32")
        found.append(log_mel(samples[: 10 * rate_hz], rate_hz, front_end))
    return found


def shake(network, deviation: float) -> None:
    """Weights of an arbitrary network that is not undecided."""
    chance = np.random.default_rng(0)
    for weight in network.weights:
        if weight.name not in ("mean", "variance", "count", "moving_mean", "moving_variance", "gamma"):
            weight.assign(chance.normal(0, deviation, weight.shape))


def assert_same(found: np.ndarray, expected: np.ndarray) -> None:
    """Probabilities ``(n, labels)``."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert (found.argmax(axis=1) == expected.argmax(axis=1)).all()


@pytest.fixture(scope="module")
def shipped() -> tuple[RuntimeNetwork, Callable[..., Any], Callable[..., Any]]:
    """The runtime's, and from Keras the probabilities and the features."""
    network = shipped_bundle().load_network()
    return shipped_bundle().load_runtime(), traced(network), traced(features_of(network))


def test_the_shipped_network_gives_what_keras_gives_on_all_of_emodb(emodb: Path, shipped) -> None:
    network, graph, _ = shipped
    speech = log_mels(emodb, shipped_bundle().front_end)
    assert len(speech) == 535
    found = np.array([network(one).probabilities for one in speech])
    assert_same(found, np.concatenate([graph(one[None]).numpy() for one in speech]))


def test_the_shipped_network_gives_what_keras_gives_on_the_sample(emodb_sample: Path, shipped) -> None:
    network, graph, features = shipped
    speech = log_mels(emodb_sample, shipped_bundle().front_end)
    found = [network(one) for one in speech]
    assert_same(
        np.array([one.probabilities for one in found]), np.concatenate([graph(one[None]).numpy() for one in speech])
    )
    for one, one_log_mel in zip(found, speech, strict=True):
        np.testing.assert_allclose(one.features, features(one_log_mel[None])[0], rtol=0, atol=1e-3)
        assert not one.functionals.size


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 41, 600])
def test_any_length(emodb_sample: Path, shipped, n_frames: int) -> None:
    network, graph, _ = shipped
    speech = np.tile(log_mels(emodb_sample, shipped_bundle().front_end)[0], 8)[:, :n_frames]
    assert speech.shape[1] == n_frames
    network(speech[:, :1])  # another length before
    np.testing.assert_allclose(network(speech).probabilities, graph(speech[None])[0], rtol=0, atol=1e-4)


def test_the_seed_network(emodb_sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = seed_crnn(SEED.shape, 7, NetworkOptions(network="seed_crnn", dropout=0.3, norm_momentum=0.9))
    shake(network, 0.1)
    convert(network, tmp_path / "seed.tflite")
    runtime = RuntimeNetwork((tmp_path / "seed.tflite").read_bytes(), None)
    speech = log_mels(emodb_sample, SEED)[:4]
    found = np.array([runtime(one).probabilities for one in speech])
    assert_same(found, network.predict(np.stack(speech), verbose=0))
    assert np.ptp(found.max(axis=1)) > 0.01
    assert "W0000" not in capfd.readouterr().err


def test_a_network_that_normalises_by_speaker(emodb_sample: Path, tmp_path: Path) -> None:
    scale = Scale(np.zeros(N_FUNCTIONALS, np.float32), np.full(N_FUNCTIONALS, 100.0, np.float32))
    network = functional_network(SPEECH, 7, NetworkOptions(network="functionals", normalise="speaker"), scale)
    shake(network, 0.05)
    convert(network, tmp_path / "speaker.tflite")
    runtime = RuntimeNetwork((tmp_path / "speaker.tflite").read_bytes(), identity_scale(scale))
    speaker_scale = np.random.default_rng(0).normal(1, 0.3, (2, N_FUNCTIONALS)).astype(np.float32)
    graph, functionals = traced(network), traced(functionals_of(network))
    for speech in log_mels(emodb_sample, SPEECH)[:3]:
        known, unknown = runtime(speech, speaker_scale), runtime(speech)
        np.testing.assert_allclose(known.probabilities, graph(speech[None], speaker_scale[None])[0], atol=1e-4)
        expected = graph(speech[None], identity_scale(scale)[None])[0]
        np.testing.assert_allclose(unknown.probabilities, expected, atol=1e-4)
        np.testing.assert_allclose(known.functionals, functionals(speech[None])[0], rtol=1e-3, atol=1e-3)
        assert np.abs(known.probabilities - unknown.probabilities).max() > 1e-3


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(Path(shutil.copytree(shipped_bundle().path, tmp_path / "bundle")))


def test_a_damaged_file_is_one_line(bundle: Bundle) -> None:
    path = bundle.path / RUNTIME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{path}: is not the network that bundle.json names; copy the bundle again"):
        bundle.load_runtime()
    path.unlink()
    with pytest.raises(BundleError, match=f"{path}: cannot be read .No such file or directory.; copy the bundle again"):
        bundle.load_runtime()
