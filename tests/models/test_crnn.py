"""The CRNN beside the functionals."""

from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

from ser_batch.audio.frontends import SPEECH
from ser_batch.audio.logmels import log_mel
from ser_batch.models.exports import convert
from ser_batch.models.litert import RuntimeEncoder
from ser_batch.models.networks.crnn import crnn, crnn_encoder
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.training.feature_store import traced
from tests.batches import stack


@pytest.fixture(scope="module")
def encoder() -> keras.Model:
    keras.utils.set_random_seed(0)
    network = crnn_encoder(SPEECH, 0.9)
    statistics = [np.full(64, value, np.float32) for value in (-45.0, 150.0)]  # about those of speech
    network.get_layer("standardise").set_weights(statistics)
    return network


@pytest.fixture(scope="module")
def speech(emodb_sample: Path) -> list[np.ndarray]:
    found = []
    for path in sorted(emodb_sample.glob("*.wav"))[:4]:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        found.append(log_mel(samples, rate_hz, SPEECH))
    return found


def test_it_is_small_and_as_wide_as_the_labels() -> None:
    network = crnn(SPEECH, 5, NetworkOptions(network="crnn", dropout=0.3))
    assert network.output_shape == (None, 5)
    assert network.count_params() < 110_000


def test_the_level_of_a_recording_changes_nothing(encoder: keras.Model, speech: list[np.ndarray]) -> None:
    embed = traced(encoder)
    for one in speech[:2]:
        np.testing.assert_allclose(embed(one[None] - 7.0), embed(one[None]), atol=1e-4)


def test_padding_and_neighbours_change_little(encoder: keras.Model, speech: list[np.ndarray]) -> None:
    embed = traced(encoder)
    alone = np.concatenate([embed(one[None]).numpy() for one in speech])
    together = embed(stack(speech)).numpy()
    assert len({one.shape[1] for one in speech}) > 1
    assert np.abs(together - alone).mean() < 0.5 * np.abs(alone - alone.mean(axis=0)).mean()


def test_the_runtime_gives_what_keras_gives(encoder: keras.Model, speech: list[np.ndarray], tmp_path: Path) -> None:
    convert(encoder, tmp_path / "crnn.tflite")
    runtime, embed = RuntimeEncoder((tmp_path / "crnn.tflite").read_bytes()), traced(encoder)
    for n_frames in (8, 9, 41, 173, 625):
        one = np.tile(speech[0], 5)[:, :n_frames]
        np.testing.assert_allclose(runtime(one), embed(one[None]).numpy()[0], rtol=0, atol=1e-4)
