"""Agreement of models of different speakers: lower where the features mean less; what it does to confidence."""

from pathlib import Path

import numpy as np
import pytest

from ser_batch.models.agreement import Agreement, batch_temperature, fit_agreement

N_LABELS, N_FEATURES, N_SPEAKERS = 4, 12, 10
CENTRES = 1.2 * np.random.default_rng(1).normal(size=(N_LABELS, N_FEATURES))


def examples(n: int, seed: int, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features around the centre of each label times ``strength``, labels, and speakers."""
    chance = np.random.default_rng(seed)
    labels = chance.integers(0, N_LABELS, n)
    features = strength * CENTRES[labels] + chance.normal(size=(n, N_FEATURES))
    return features.astype(np.float32), labels, [f"{number % N_SPEAKERS:02d}" for number in range(n)]


def fitted() -> Agreement:
    features, labels, speakers = examples(400, seed=0)
    found = fit_agreement(features, features, labels, speakers, N_LABELS)
    assert found is not None
    return found


def test_it_is_the_share_of_pairs_with_the_same_label() -> None:
    """Three members, each with a constant label: 0, 0, 1."""
    biases = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
    members = Agreement(np.zeros((3, 2, 2), np.float32), biases, expected=1.0)
    assert members.of(np.zeros((5, 2), np.float32)) == pytest.approx(1 / 3)
    assert members.of(np.zeros((5, 9), np.float32)) == pytest.approx(1 / 3)  # the features of a CRNN are ignored


def test_new_recordings_of_the_same_kind_agree_as_expected_and_others_less() -> None:
    agreement = fitted()
    assert agreement.of(examples(400, seed=2)[0]) == pytest.approx(agreement.expected, abs=0.05)
    assert agreement.of(examples(400, seed=2, strength=0.3)[0]) < agreement.expected - 0.15


def test_what_is_expected_is_measured_on_speakers_that_the_members_were_not_trained_on() -> None:
    """Features that only tell the speakers: members agree by chance on others' recordings."""
    chance = np.random.default_rng(3)
    features = chance.normal(size=(60, 200)).astype(np.float32)
    labels = chance.integers(0, N_LABELS, 60)
    found = fit_agreement(features, features, labels, examples(60, 0)[2], N_LABELS)
    assert found is not None
    assert found.expected < 0.45


def test_a_batch_on_which_they_agree_less_has_a_higher_temperature() -> None:
    agreement = fitted()
    familiar, strange = examples(400, seed=2)[0], examples(400, seed=2, strength=0.3)[0]
    assert batch_temperature(agreement, familiar, 400, False) == pytest.approx(1.0, abs=0.1)
    assert batch_temperature(agreement, strange, 400, False) > 1.8


def test_a_small_batch_has_the_temperature_of_its_distance() -> None:
    agreement, strange = fitted(), examples(400, seed=2, strength=0.3)[0]
    assert batch_temperature(agreement, strange[:2], 2, False) < 1.5
    assert batch_temperature(agreement, examples(2, seed=2)[0], 2, True) == pytest.approx(1.6, abs=0.15)
    assert batch_temperature(None, strange, 400, True) == pytest.approx(1.6)
    assert batch_temperature(None, strange, 400, False) == 1.0
    assert batch_temperature(agreement, strange[:0], 400, True) == pytest.approx(1.6)


def test_a_label_that_a_group_does_not_have_is_never_its_answer() -> None:
    features, labels, speakers = examples(400, seed=0)
    labels = np.where([name == "00" or name == "05" for name in speakers], labels % 2, labels)
    found = fit_agreement(features, features, labels, speakers, N_LABELS)
    assert found is not None
    first = found._labels(features)[0]  # of the speakers 00 and 05
    assert set(first.tolist()) == {0, 1}
    assert np.mean(first[labels < 2] == labels[labels < 2]) > 0.8


def test_two_labels() -> None:
    features, labels, speakers = examples(400, seed=0)
    own = labels < 2
    features, labels, speakers = features[own], labels[own], np.array(speakers)[own].tolist()
    found = fit_agreement(features, features, labels, speakers, 2)
    assert found is not None
    assert found.kernels.shape == (5, N_FEATURES, 2)
    assert all(np.mean(one == labels) > 0.9 for one in found._labels(features))
    assert found.expected > 0.85


@pytest.mark.parametrize("speakers", [[""] * 400, ["one", "two"] * 200])
def test_too_few_speakers_give_none(speakers: list[str]) -> None:
    features, labels, _ = examples(400, seed=0)
    assert fit_agreement(features, features, labels, speakers, N_LABELS) is None


def test_it_is_saved_as_it_is(tmp_path: Path) -> None:
    agreement = fitted()
    with open(tmp_path / "agreement.npz", "wb") as file:
        agreement.save(file)
    loaded = Agreement.load(tmp_path / "agreement.npz", agreement.fingerprint)
    assert loaded.fingerprint == agreement.fingerprint
    assert loaded.expected == agreement.expected
