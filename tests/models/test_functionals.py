"""The functional network on log-mels of real speech: padding is nothing, pitch is what is sung."""

from pathlib import Path
from typing import Any

import librosa
import numpy as np
import pytest
import soundfile

from ser_batch.audio.frontends import SPEECH
from ser_batch.audio.logmels import PADDING_DB, log_mel
from ser_batch.errors import TrainingError
from ser_batch.models.bundles import load_keras, save_keras, shipped_bundle, weights_sha256
from ser_batch.models.networks import descriptors
from ser_batch.models.networks.families import encoder_of, features_of
from ser_batch.models.networks.functionals import (
    functional_extractor,
    functional_head,
    functional_network,
)
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.normalisation import Scale
from ser_batch.training.feature_store import traced
from tests.batches import stack
from tests.frontends import KEPT, WINDOWED

OPTIONS = NetworkOptions(network="functionals")
LENGTHS = [1, 2, 3, 4, 5, 50, 83, 118]
N_FEATURES = functional_extractor(KEPT).output_shape[-1]
UNIT = Scale(np.zeros(N_FEATURES, np.float32), np.full(N_FEATURES, 100.0, np.float32))


class Traced:
    """A network of arbitrary weights with all that can be seen of it, as a graph that is made once for all lengths."""

    def __init__(self, network: Any) -> None:
        import keras

        self.network = network
        self.by_speaker = len(network.inputs) == 2
        chance = np.random.default_rng(0)
        for weight in network.weights:
            weight.assign(chance.normal(0, 0.02, weight.shape))
        outputs = [encoder_of(network).output, features_of(network).output, network.output]
        graph = traced(keras.Model(network.inputs, outputs))
        self._graph = graph

    def __call__(self, batch: np.ndarray, *scales: np.ndarray) -> list[np.ndarray]:
        """Functionals, what the softmax sees, probabilities."""
        if self.by_speaker and not scales:
            scales = (np.tile(np.array([1, 0], np.float32)[:, None], (len(batch), 1, N_FEATURES)),)
        return [values.numpy() for values in self._graph(batch, *scales)]


@pytest.fixture(scope="module")
def speech(emodb_sample: Path) -> np.ndarray:
    samples, rate_hz = soundfile.read(emodb_sample / "03a01Wa.wav", dtype="float32")
    return log_mel(samples, rate_hz, KEPT)


@pytest.fixture(scope="module")
def plain() -> Traced:
    return Traced(functional_network(KEPT, 7, OPTIONS, UNIT))


@pytest.fixture(scope="module")
def centred() -> Traced:
    """Each recording's mean is taken away."""
    return Traced(functional_network(KEPT, 7, OPTIONS.replace(normalise="file"), UNIT))


@pytest.fixture(scope="module")
def scaled() -> Traced:
    """Each speaker's scale is a second input."""
    return Traced(functional_network(KEPT, 7, OPTIONS.replace(normalise="speaker"), UNIT))


def test_padding_and_neighbours_change_nothing(
    plain: Traced, centred: Traced, scaled: Traced, speech: np.ndarray
) -> None:
    for network in (plain, centred, scaled):
        alone = {n_frames: network(speech[None, :, :n_frames]) for n_frames in LENGTHS}
        assert all(np.isfinite(values).all() for found in alone.values() for values in found)
        assert np.ptp([probabilities for *_, probabilities in alone.values()], axis=0).max() > 0.05
        found = {}
        for n_frames in LENGTHS:
            for pad in (1, 2, 5, 61, 400):
                padded = np.full((1, KEPT.n_mels, n_frames + pad), PADDING_DB, np.float32)
                padded[0, :, :n_frames] = speech[:, :n_frames]
                found[n_frames, pad] = network(padded)
        for lengths in (LENGTHS, LENGTHS[::-1]):
            together = network(stack([speech[:, :n_frames] for n_frames in lengths]))
            for place, n_frames in enumerate(lengths):
                found[n_frames, lengths[0]] = [values[place : place + 1] for values in together]
        for (n_frames, _), (features, _, probabilities) in found.items():
            np.testing.assert_allclose(features, alone[n_frames][0], rtol=1e-3, atol=2e-3)
            np.testing.assert_allclose(probabilities, alone[n_frames][2], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["floor", "constant", "one loud cell"])
def test_odd_log_mels_give_finite_functionals(plain: Traced, kind: str) -> None:
    for n_frames in (1, 2, 40):
        batch = np.full((1, KEPT.n_mels, n_frames), 10.0 if kind == "constant" else -60.0, np.float32)
        if kind == "one loud cell":
            batch[0, 7, n_frames // 2] = 120.0
        assert all(np.isfinite(values).all() for values in plain(batch))


def test_centring_files_takes_their_level_away(plain: Traced, centred: Traced, speech: np.ndarray) -> None:
    tilted = speech + np.linspace(-10, 10, KEPT.n_mels, dtype=np.float32)[:, None]
    moved = [np.abs(network(tilted[None])[0] - network(speech[None])[0]) for network in (plain, centred)]
    assert moved[0].max() > 5
    assert moved[1].max() < 0.05


def test_the_head_on_the_extractor_is_the_network(plain: Traced, speech: np.ndarray) -> None:
    features, seen, probabilities = plain(stack([speech[:, :n_frames] for n_frames in (50, 83, 118)]))
    assert features.shape == (3, N_FEATURES)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    head = functional_head(7, OPTIONS, UNIT)
    head.set_weights(plain.network.get_weights())
    np.testing.assert_allclose(traced(head)(features), probabilities, atol=1e-6)
    np.testing.assert_allclose(np.asarray(head.get_layer("emotion")(seen)), probabilities, atol=1e-6)


def test_a_speakers_scale_is_a_second_input(scaled: Traced, speech: np.ndarray) -> None:
    features, seen, probabilities = scaled(speech[None])
    halved = np.stack([np.full_like(features, 0.5), np.full_like(features, 3.0)], axis=1)
    as_before, otherwise, other = scaled(speech[None], halved)
    np.testing.assert_array_equal(as_before, features)
    assert np.abs(other - probabilities).max() > 1e-3
    head = functional_head(7, OPTIONS, UNIT)
    head.set_weights(scaled.network.get_weights())
    np.testing.assert_allclose(traced(head)(0.5 * features + 3.0), other, atol=1e-6)
    assert np.abs(otherwise - seen).max() > 1e-3


def test_it_is_saved_and_loaded_without_running_code(scaled: Traced, speech: np.ndarray, tmp_path: Path) -> None:
    save_keras(scaled.network, tmp_path / "model.keras")
    loaded = load_keras(tmp_path / "model.keras")
    assert weights_sha256(loaded) == weights_sha256(scaled.network)
    assert loaded.inputs[0].shape == (None, KEPT.n_mels, None)
    scale = np.random.default_rng(0).normal(1, 0.3, (1, 2, N_FEATURES)).astype(np.float32)
    expected = scaled(speech[None], scale)[2]
    np.testing.assert_allclose(traced(loaded)(speech[None], scale), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("pitch_hz", [110.0, 165.0, 220.0, 330.0])
def test_the_pitch_of_a_sung_vowel_is_found(pitch_hz: float) -> None:
    import tensorflow as tf

    seconds = np.arange(16_000) / 16_000
    sung = sum(0.7**n * np.sin(2 * np.pi * n * pitch_hz * seconds) for n in range(1, 12)) * 0.1
    decibels = log_mel(sung.astype(np.float32), 16_000, SPEECH)
    found = descriptors._pitch(descriptors._saliences(tf.constant(decibels.T[None]), SPEECH)).numpy()
    octaves = np.log2(pitch_hz / descriptors._PITCHES_HZ[0])
    assert np.median(found) == pytest.approx(octaves, abs=1 / 12)


def test_it_is_as_wide_as_the_labels_and_fits_padded_records() -> None:
    network = functional_network(WINDOWED, 200, OPTIONS, UNIT)
    assert network.output_shape == (None, 200)
    assert network.input_shape == (None, *WINDOWED.shape)
    assert network.count_params() == 200 * (N_FEATURES + 1)


def test_bands_that_do_not_fit_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"a multiple of 64 mel bands, and this front end has 40.*speech"):
        functional_extractor(KEPT.replace(n_mels=40))


def test_the_spectrum_is_described_by_its_power() -> None:
    """Level, centroid and loudness from the bands' power, in plain NumPy."""
    import tensorflow as tf

    decibels = log_mel(np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32), 16_000, SPEECH)
    spectrum = descriptors.Spectrum(tf.constant(decibels.T[None]), SPEECH)
    centres_hz = librosa.mel_frequencies(SPEECH.n_mels + 2, fmin=SPEECH.fmin_hz, fmax=SPEECH.fmax_hz)[1:-1]
    widths = np.gradient(centres_hz) / np.gradient(centres_hz)[0]
    power = (10.0 ** (decibels.T.astype(np.float64) / 10) * widths).reshape(-1, 64, 3).sum(axis=2)
    octaves = np.log2(centres_hz.reshape(64, 3).mean(axis=1) / 1000)
    np.testing.assert_allclose(spectrum.level[0], 10 * np.log10(power.sum(axis=1)), atol=1e-2)
    np.testing.assert_allclose(spectrum.centroid[0], power @ octaves / power.sum(axis=1), atol=1e-3)
    np.testing.assert_allclose(spectrum.loudness[0], np.sqrt((power**0.3).sum(axis=1)), rtol=1e-3)


def test_the_shipped_network_is_made_of_these_functionals(emodb_sample: Path) -> None:
    """Whoever changes one makes the shipped model anew."""
    samples, rate_hz = soundfile.read(emodb_sample / "03a01Wa.wav", dtype="float32")
    decibels = log_mel(samples, rate_hz, SPEECH)[None]
    shipped = traced(encoder_of(shipped_bundle().load_network()))(decibels).numpy()
    np.testing.assert_allclose(traced(functional_extractor(SPEECH))(decibels), shipped, rtol=1e-3, atol=1e-3)


def test_the_penalty_is_on_the_distance_to_initial_weights() -> None:
    kernel, bias = np.full((N_FEATURES, 7), 0.3, np.float32), np.zeros(7, np.float32)
    head = functional_head(7, OPTIONS.replace(l2=0.5), UNIT, (kernel, bias))
    assert float(sum(head.losses)) == pytest.approx(0.0, abs=1e-6)
    head.get_layer("emotion").set_weights([kernel + 0.1, bias])
    assert float(sum(head.losses)) == pytest.approx(0.5 * kernel.size * 0.01, rel=1e-4)
    without = functional_head(7, OPTIONS.replace(l2=0.5), UNIT)
    without.get_layer("emotion").set_weights([kernel, bias])
    assert float(sum(without.losses)) == pytest.approx(0.5 * kernel.size * 0.09, rel=1e-4)
