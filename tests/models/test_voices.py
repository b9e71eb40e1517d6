"""Voices are found in a space in which the training speakers differ."""

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from ser_batch.models.voices import VoiceSpace, fit_voice_space

N_FEATURES = 40


def recordings(n_speakers: int, n_each: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Features with a speaker's own mean in the first ten, and three emotions in the last ten."""
    random = np.random.default_rng(seed)
    speakers = np.repeat(np.arange(n_speakers), n_each)
    features = random.normal(0, 1, (len(speakers), N_FEATURES))
    features[:, :10] += random.normal(0, 3, (n_speakers, 10))[speakers]
    features[:, -10:] += random.normal(0, 1, (3, 10))[random.integers(0, 3, len(speakers))]
    return features.astype(np.float32), [f"s{number}" for number in speakers]


@pytest.fixture(scope="module")
def space() -> VoiceSpace:
    space = fit_voice_space(*recordings(20, 40, 0))
    assert space is not None
    return space


def found(space: VoiceSpace, features: np.ndarray) -> np.ndarray:
    return space.find(space.project(features), [f"{number}.wav" for number in range(len(features))])


def test_new_speakers_are_voices_and_emotions_are_not(space: VoiceSpace) -> None:
    features, speakers = recordings(4, 50, 1)
    voices = found(space, features)
    assert adjusted_rand_score(speakers, voices) > 0.95  # a few unusual recordings are voices of their own


def test_one_speaker_is_one_voice(space: VoiceSpace) -> None:
    for seed in range(2, 8):
        assert np.bincount(found(space, recordings(1, 80, seed)[0]))[0] >= 79


def test_voices_are_numbered_by_size_whatever_the_order(space: VoiceSpace) -> None:
    features, _ = recordings(3, 30, 3)
    features = features[:65]  # the last speaker has 5 recordings
    voices = found(space, features)
    assert np.bincount(voices).tolist() == sorted(np.bincount(voices).tolist(), reverse=True)
    order = np.random.default_rng(0).permutation(len(features))
    names = [f"{number}.wav" for number in order]
    np.testing.assert_array_equal(space.find(space.project(features[order]), names), voices[order])


def test_more_recordings_than_are_clustered(space: VoiceSpace) -> None:
    features, speakers = recordings(3, 900, 4)
    voices = found(space, features)
    assert adjusted_rand_score(speakers, voices) > 0.95


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_recordings(space: VoiceSpace, n: int) -> None:
    assert len(found(space, recordings(1, 5, 5)[0][:n])) == n


def test_without_speakers_there_is_no_space() -> None:
    features, _ = recordings(2, 10, 6)
    assert fit_voice_space(features, [""] * 20) is None
    assert fit_voice_space(features, ["a", "b"] * 10) is None
