"""The LiteRT network gives what the Keras network gives, for real speech of any length."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_batch.audio.frontends import SEED, SPEECH, FrontEnd
from ser_batch.audio.logmels import log_mel
from ser_batch.errors import BundleError
from ser_batch.models.bundles import RUNTIME, Bundle, open_bundle, shipped_bundle
from ser_batch.models.exports import convert
from ser_batch.models.litert import RuntimeEncoder
from ser_batch.models.networks.families import encoder_of, features_of, head_of
from ser_batch.models.networks.functionals import functional_extractor, functional_network
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.networks.seed_crnn import seed_crnn
from ser_batch.models.normalisation import Scale, identity_scale
from ser_batch.training.feature_store import traced


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


class Shipped:
    """The shipped network: the runtime's encoder with the head in NumPy, and the whole network in Keras."""

    def __init__(self) -> None:
        self.encoder, self.head = shipped_bundle().load_encoder(), shipped_bundle().load_arrays().head
        network = shipped_bundle().load_network()
        self._keras, self._features = traced(network), traced(features_of(network))
        self._scale = identity_scale(self.head.reference)[None]

    def runtime(self, log_mel: np.ndarray) -> np.ndarray:
        return self.head.probabilities(self.head.features(self.encoder(log_mel)[None]))[0]

    def keras(self, log_mel: np.ndarray) -> np.ndarray:
        return self._keras(log_mel[None], self._scale).numpy()[0]

    def features(self, log_mel: np.ndarray) -> np.ndarray:
        return self._features(log_mel[None], self._scale).numpy()[0]


@pytest.fixture(scope="module")
def shipped() -> Shipped:
    return Shipped()


def test_the_shipped_network_gives_what_keras_gives_on_all_of_emodb(emodb: Path, shipped: Shipped) -> None:
    speech = log_mels(emodb, shipped_bundle().front_end)
    assert len(speech) == 535
    found, expected = (np.array([network(one) for one in speech]) for network in (shipped.runtime, shipped.keras))
    assert_same(found, expected)


def test_the_shipped_network_gives_what_keras_gives_on_the_sample(emodb_sample: Path, shipped: Shipped) -> None:
    speech = log_mels(emodb_sample, shipped_bundle().front_end)
    assert_same(np.array([shipped.runtime(one) for one in speech]), np.array([shipped.keras(one) for one in speech]))
    for one in speech:
        found = shipped.head.features(shipped.encoder(one)[None])[0]
        np.testing.assert_allclose(found, shipped.features(one), rtol=0, atol=1e-2)


@pytest.mark.parametrize("n_frames", [1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 41, 600])
def test_any_length(emodb_sample: Path, shipped: Shipped, n_frames: int) -> None:
    speech = np.tile(log_mels(emodb_sample, shipped_bundle().front_end)[0], 8)[:, :n_frames]
    assert speech.shape[1] == n_frames
    shipped.runtime(speech[:, :1])  # another length before
    np.testing.assert_allclose(shipped.runtime(speech), shipped.keras(speech), rtol=0, atol=1e-4)


def test_the_seed_network(emodb_sample: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = NetworkOptions(network="seed_crnn", dropout=0.3, norm_momentum=0.9)
    network = seed_crnn(SEED.shape, 7, options)
    shake(network, 0.1)
    convert(encoder_of(network), tmp_path / "seed.tflite")
    encoder, head = RuntimeEncoder((tmp_path / "seed.tflite").read_bytes()), head_of(network, None)
    speech = log_mels(emodb_sample, SEED)[:4]
    found = head.probabilities(head.features(np.stack([encoder(one) for one in speech])))
    assert_same(found, network.predict(np.stack(speech), verbose=0))
    assert np.ptp(found.max(axis=1)) > 0.01
    assert "W0000" not in capfd.readouterr().err


def test_a_network_that_normalises_by_speaker(emodb_sample: Path, tmp_path: Path) -> None:
    n_features = functional_extractor(SPEECH).output_shape[-1]
    scale = Scale(np.zeros(n_features, np.float32), np.full(n_features, 100.0, np.float32))
    options = NetworkOptions(network="functionals", normalise="speaker")
    network = functional_network(SPEECH, 7, options, scale)
    shake(network, 0.05)
    convert(encoder_of(network), tmp_path / "speaker.tflite")
    encoder, head = RuntimeEncoder((tmp_path / "speaker.tflite").read_bytes()), head_of(network, scale)
    speaker_scale = np.random.default_rng(0).normal(1, 0.3, (1, 2, n_features)).astype(np.float32)
    graph = traced(network)
    for speech in log_mels(emodb_sample, SPEECH)[:3]:
        embedding = encoder(speech)[None]
        known, unknown = (head.probabilities(head.features(embedding, used)) for used in (speaker_scale, None))
        np.testing.assert_allclose(known, graph(speech[None], speaker_scale), atol=1e-4)
        np.testing.assert_allclose(unknown, graph(speech[None], identity_scale(scale)[None]), atol=1e-4)
        assert np.abs(known - unknown).max() > 1e-3


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return open_bundle(Path(shutil.copytree(shipped_bundle().path, tmp_path / "bundle")))


def test_a_damaged_file_is_one_line(bundle: Bundle) -> None:
    path = bundle.path / RUNTIME
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{path}: is not the network that bundle.json names; copy the bundle again"):
        bundle.load_encoder()
    path.unlink()
    with pytest.raises(BundleError, match=f"{path}: cannot be read .No such file or directory.; copy the bundle again"):
        bundle.load_encoder()
