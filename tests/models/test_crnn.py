from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_batch.audio.logmels import PADDING_DB, stack
from ser_batch.errors import TrainingError
from ser_batch.models.bundles import load_keras, save_keras, weights_sha256
from ser_batch.models.crnn import CrnnOptions, InputScale, features_of, seed_crnn, small_crnn

PLAIN = CrnnOptions(dropout=0.0, channel_dropout=0.0, norm_momentum=0.99)
LENGTHS = [1, 2, 3, 4, 7, 8, 50, 83]


def log_mel(n_frames: int, n_mels: int = 64) -> np.ndarray:
    """Decibels as speech has them."""
    return np.random.default_rng(n_frames).normal(-30, 12, (n_mels, n_frames)).clip(-60, 20).astype(np.float32)


def test_the_seed_network_is_the_published_one() -> None:
    network = seed_crnn((128, 259), 7, PLAIN)
    assert network.count_params() == 1_443_015
    convolutions = [layer for layer in network.layers if layer.name.startswith("conv_")]
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 128]
    assert all(layer.kernel_size == (3, 3) and layer.padding == "same" for layer in convolutions)
    lstm = network.get_layer("lstm")
    assert lstm.input.shape == (None, 16, 8 * 128)
    assert lstm.output.shape == (None, 256)


def test_it_is_as_wide_as_the_labels() -> None:
    assert seed_crnn((128, 259), 8, PLAIN).output_shape == (None, 8)
    assert small_crnn((64, None), 200, PLAIN).output_shape == (None, 200)


def test_time_is_the_sequence_axis() -> None:
    network = seed_crnn((128, 259), 7, PLAIN)
    import keras

    until_lstm = keras.Model(network.input, network.get_layer("lstm").input)
    base = np.zeros((1, 128, 259), np.float32)
    late = base.copy()
    late[:, :, 200:] = 1.0
    changed = np.abs(until_lstm(base) - until_lstm(late))[0].max(axis=1) > 0
    assert not changed[: 200 // 16 - 1].any()
    assert changed[200 // 16 + 1 :].all()


@pytest.mark.parametrize("build", [partial(seed_crnn, (128, 259)), partial(small_crnn, (128, None))])
def test_the_input_scale_is_inside(build: Callable[..., Any]) -> None:
    mean, variance = np.linspace(-60, -20, 128).astype("f4"), np.full(128, 81, "f4")
    network = build(7, PLAIN, InputScale(mean, variance))
    scaled = network.get_layer("standardise")(np.broadcast_to(mean[:, None] + 9, (1, 128, 259)))
    np.testing.assert_allclose(np.asarray(scaled), 1.0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_only_there_when_asked_for(dropout: float) -> None:
    network = seed_crnn((32, 64), 3, CrnnOptions(dropout, 0.0, 0.9))
    assert len([layer for layer in network.layers if layer.name.startswith("drop_")]) == (2 if dropout else 0)


def test_the_seed_network_refuses_log_mels_of_any_length() -> None:
    with pytest.raises(TrainingError, match=r"seed_crnn takes log-mels of one length.*--front-end seed"):
        seed_crnn((64, None), 7, PLAIN)


# --- the small network, to which padding is nothing


class Traced:
    """A network as a graph that is made once for all lengths, its weights and running averages all changed.

    So none is at the value that hides a mistake.
    """

    def __init__(self, network: Any) -> None:
        import tensorflow as tf

        self.network = network
        chance = np.random.default_rng(0)
        for weight in network.weights:
            if not weight.path.endswith("seed_generator_state"):
                values = np.asarray(weight.numpy() + chance.normal(0, 0.2, weight.shape), np.float32)
                weight.assign(np.abs(values) if weight.path.endswith("variance") else values)
        signature = [tf.TensorSpec((None, 64, None), tf.float32)]
        self._graph = tf.function(lambda batch: network(batch, training=False), input_signature=signature)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.asarray(self._graph(batch))


SCALE = InputScale(np.linspace(-50, -20, 64).astype("f4"), np.full(64, 144, "f4"))


@pytest.fixture(scope="module")
def standardised() -> Traced:
    return Traced(small_crnn((64, None), 7, PLAIN, SCALE))


@pytest.fixture(scope="module")
def centred() -> Traced:
    return Traced(small_crnn((64, None), 7, PLAIN, SCALE, centre_files=True))


def test_padding_and_neighbours_change_no_prediction(standardised: Traced, centred: Traced) -> None:
    unscaled = Traced(small_crnn((64, None), 7, PLAIN))
    for network in (standardised, centred, unscaled):
        alone = {n_frames: network(log_mel(n_frames)[None])[0] for n_frames in LENGTHS}
        assert np.std(list(alone.values()), axis=0).max() > 0.01
        for n_frames in LENGTHS:
            for pad in (1, 2, 3, 4, 5, 8, 61, 200):
                padded = np.full((1, 64, n_frames + pad), PADDING_DB, np.float32)
                padded[0, :, :n_frames] = log_mel(n_frames)
                np.testing.assert_allclose(network(padded)[0], alone[n_frames], rtol=0, atol=1e-6)
        for lengths in (LENGTHS, LENGTHS[::-1], [83, 1, 1, 2, 83]):
            together = network(stack([log_mel(n_frames) for n_frames in lengths]))
            for row, n_frames in zip(together, lengths, strict=True):
                np.testing.assert_allclose(row, alone[n_frames], rtol=0, atol=1e-6)


def test_every_frame_is_heard(standardised: Traced) -> None:
    for n_frames in LENGTHS:
        before = standardised(log_mel(n_frames)[None])
        for frame in {0, n_frames // 2, n_frames - 1}:
            changed = log_mel(n_frames)
            changed[:, frame] += 30
            assert np.abs(standardised(changed[None]) - before).max() > 1e-5


def test_silence_is_not_padding(standardised: Traced) -> None:
    quiet = np.concatenate([log_mel(50), np.full((64, 40), -60, np.float32)], axis=1)
    assert np.abs(standardised(quiet[None]) - standardised(log_mel(50)[None])).max() > 1e-3


def test_centring_files_takes_their_level_away(standardised: Traced, centred: Traced) -> None:
    tilted = log_mel(50) + np.linspace(-10, 10, 64, dtype=np.float32)[:, None]
    assert np.abs(centred(tilted[None]) - centred(log_mel(50)[None])).max() < 1e-5
    assert np.abs(standardised(tilted[None]) - standardised(log_mel(50)[None])).max() > 1e-3


def test_the_small_network_has_few_parameters() -> None:
    assert small_crnn((64, None), 7, PLAIN).count_params() == 93_239
    assert small_crnn((64, None), 8, PLAIN).count_params() == 93_239 + 2 * 96 + 1


def test_its_features_are_what_the_softmax_sees(standardised: Traced) -> None:
    features = np.asarray(features_of(standardised.network)(log_mel(8)[None]))
    assert features.shape == (1, 192)
    again = np.asarray(standardised.network.get_layer("emotion")(features))
    np.testing.assert_allclose(again, standardised(log_mel(8)[None]), atol=1e-6)


def test_it_is_saved_and_loaded_without_running_code(centred: Traced, tmp_path: Path) -> None:
    save_keras(centred.network, tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras")
    assert weights_sha256(loaded) == weights_sha256(centred.network)
    assert loaded.input_shape == (None, 64, None)
    batch = stack([log_mel(n_frames) for n_frames in (1, 2, 8)])
    np.testing.assert_allclose(np.asarray(loaded(batch)), centred(batch), rtol=0, atol=1e-6)
