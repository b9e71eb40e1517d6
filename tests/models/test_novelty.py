"""Novelty: .5 at the training examples' median, .95 at their 95th percentile, near 1 for what is no speech."""

from pathlib import Path

import keras
import numpy as np
import pytest
import soundfile

from ser_batch.audio.logmels import log_mel
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import shipped_bundle
from ser_batch.models.novelty import Novelty, fit_novelty


def examples(n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Around two centres, (0, 10, 7) and (50, 10, 7), with deviations 1, 4 and 0; no example has the label 1."""
    chance = np.random.default_rng(0)
    labels = np.repeat([0, 2], n // 2)
    features = chance.normal([0.0, 10.0, 7.0], [1.0, 4.0, 0.0], (n, 3))
    features[labels == 2, 0] += 50
    return features.astype(np.float32), labels


def fitted() -> Novelty:
    features, labels = examples()
    halves = [(features[half::2], labels[half::2]) for half in (0, 1)]
    return fit_novelty(lambda: halves)


def test_the_scale_is_that_of_the_training_examples() -> None:
    figures = fitted().of(examples()[0])
    assert np.median(figures) == pytest.approx(0.5, abs=1e-6)
    assert np.quantile(figures, 0.95) == pytest.approx(0.95, abs=1e-6)


def test_the_distance_is_to_the_nearest_centre_in_deviations() -> None:
    novelty = fitted()
    assert novelty.centres == pytest.approx(np.array([[0, 10, 7], [50, 10, 7]]), abs=0.5)
    assert novelty.deviations[:2] == pytest.approx([1.0, 4.0], rel=0.1)
    exact = Novelty(np.array([[0, 10], [50, 10]], np.float32), np.array([1, 4], np.float32), scale=2.0, shape=1.0)
    points = np.array([[0, 10], [3, 10], [0, 26], [47, 26], [25, 10]], np.float32)
    expected = np.sqrt([0, 9 / 2, 16 / 2, (9 + 16) / 2, 625 / 2])
    assert exact.distances(points) == pytest.approx(expected)
    assert exact.of(points) == pytest.approx(1 - np.exp(-expected / 2))


def test_the_excess_grows_where_the_novelty_does_not_any_more() -> None:
    exact = Novelty(np.array([[0, 10]], np.float32), np.array([1, 1], np.float32), scale=2.0, shape=3.0)
    points = np.array([[0, 10], [0, 10 + 2.5], [0, 110], [0, 210]], np.float32)
    edge = 2.0 * np.log(20) ** (1 / 3)  # where the novelty is .95
    expected = np.log(np.maximum(np.array([0, 2.5, 100, 200]) / np.sqrt(2) / edge, 1))
    assert exact.excess(points) == pytest.approx(expected)
    assert exact.of(points)[2] == exact.of(points)[3] == 1.0
    in_graph = exact.excess(keras.ops.convert_to_tensor(points), keras.ops)
    assert keras.ops.convert_to_numpy(in_graph) == pytest.approx(expected, rel=1e-5)


def test_a_constant_training_feature_does_not_dominate_the_distance() -> None:
    novelty = fitted()
    still, moved = np.array([[0, 10, 7], [0, 10, 7.001]], np.float32)
    assert novelty.of(moved[None])[0] - novelty.of(still[None])[0] < 0.05


def test_it_is_saved_as_it_is(tmp_path: Path) -> None:
    novelty = fitted()
    with open(tmp_path / "novelty.npz", "wb") as file:
        novelty.save(file)
    loaded = Novelty.load(tmp_path / "novelty.npz", novelty.fingerprint)
    assert loaded.fingerprint == novelty.fingerprint
    np.testing.assert_array_equal(loaded.of(examples()[0]), novelty.of(examples()[0]))


def test_the_shipped_model_tells_speech_from_noise_and_tones(emodb_sample: Path) -> None:
    encoder, classifier, front_end = (
        shipped_bundle().load_encoder(),
        Classifier.of(shipped_bundle()),
        shipped_bundle().front_end,
    )
    chance, secs = np.random.default_rng(0), np.arange(32_000) / 16_000
    speech = [soundfile.read(path, dtype="float32") for path in sorted(emodb_sample.glob("*.wav"))]
    other = [chance.normal(0, 0.1, 32_000), 0.5 * np.sin(2 * np.pi * 440 * secs)]

    def novelty(log_mels: list[np.ndarray]) -> np.ndarray:
        return classifier(np.stack([encoder(one) for one in log_mels]))[:, -2]

    known = novelty([log_mel(*one, front_end) for one in speech])
    new = novelty([log_mel(samples.astype(np.float32), 16_000, front_end) for samples in other])
    assert np.median(known) == pytest.approx(0.5, abs=0.25)
    assert min(new) > max(known)
    assert min(new) > 0.99
