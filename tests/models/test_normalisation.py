"""Speaker normalisation: statistics of speakers and scales of their features."""

import numpy as np
import pytest

from ser_batch.models.normalisation import (
    GroupStatistics,
    Scale,
    SpeakerScales,
    identity_scale,
    measure_scale,
    scale_to,
    shrunk,
    within_speakers,
)

REFERENCE = Scale(np.array([0.0, -20.0, 5.0], np.float32), np.array([1.0, 25.0, 0.04], np.float32))


def features_of(n: int, mean: float, deviation: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, deviation, (n, 3)).astype(np.float32)


def applied(features: np.ndarray, scales: np.ndarray) -> np.ndarray:
    return features * scales[..., 0, :] + scales[..., 1, :]


def test_a_scale_is_of_all_batches_together() -> None:
    features = features_of(103, -40.0, 7.0)
    scale = measure_scale([features[:50], features[50:51], features[51:]])
    np.testing.assert_allclose(scale.mean, features.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(scale.variance, features.var(axis=0), rtol=1e-4)
    assert scale.mean.dtype == scale.variance.dtype == np.float32


def test_a_constant_feature_has_no_variance_and_none_below_zero() -> None:
    scale = measure_scale([np.full((1000, 3), 1e4 / 3, np.float32)])
    assert (scale.variance >= 0).all()
    assert (scale.variance < 1).all()


def test_within_speakers_is_what_is_left_without_their_differences() -> None:
    loud, soft, once = features_of(400, 30.0, 2.0, 1), features_of(100, -30.0, 4.0, 2), features_of(1, 500.0, 0.0)
    features = np.concatenate([loud, soft, once])
    scale = within_speakers(features, ["a"] * 400 + ["b"] * 100 + ["c"])
    np.testing.assert_allclose(scale.mean, features.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(scale.variance, (loud.var(axis=0) + soft.var(axis=0)) / 2, rtol=1e-4)
    of_all = within_speakers(features, [""] * 501)
    np.testing.assert_allclose(of_all.variance, features.var(axis=0), rtol=1e-4)


def test_many_recordings_bring_a_speaker_to_the_reference() -> None:
    loud, soft = features_of(5000, 70.0, 9.0, 1), features_of(5000, -70.0, 0.5, 2)
    features = np.concatenate([loud, soft])
    scales = SpeakerScales(features, ["loud"] * 5000 + ["soft"] * 5000, REFERENCE).of_speakers(range(10_000))
    assert scales.shape == (10_000, 2, 3)
    assert scales.dtype == np.float32
    for part in (slice(0, 5000), slice(5000, None)):
        changed = applied(features[part], scales[part]).astype(np.float64)
        deviation = np.sqrt(REFERENCE.variance)
        np.testing.assert_allclose((changed.mean(axis=0) - REFERENCE.mean) / deviation, 0, atol=0.5)
        np.testing.assert_allclose(changed.std(axis=0) / deviation, 1, atol=0.15)


def test_one_recording_is_pulled_only_a_part_of_the_way() -> None:
    features = features_of(1, 70.0, 0.0)
    (scale,) = SpeakerScales(features, ["a"], REFERENCE).of_speakers([0])
    assert (scale[0] >= 1).all()
    assert (scale[0] < 1.2).all()
    distances = np.abs(applied(features[0], scale) - REFERENCE.mean) / np.abs(features[0] - REFERENCE.mean)
    assert (distances > 0.5).all()
    assert (distances < 1).all()


def test_more_recordings_bring_a_speaker_nearer_to_the_reference() -> None:
    left = []
    for n in (1, 5, 20, 100, 1000):
        features = features_of(n, 70.0, 1.0, n)
        scale = scale_to(shrunk(GroupStatistics().add(features), REFERENCE, 10.0), REFERENCE)
        left.append(np.abs(applied(features, scale).mean(axis=0) - REFERENCE.mean)[1])
    assert left == sorted(left, reverse=True)
    assert left[-1] < left[0] / 10


def test_merged_statistics_are_those_of_all_recordings() -> None:
    features = features_of(60, 12.0, 3.0)
    statistics = GroupStatistics().add(features[:1])
    for part in np.array_split(features[1:], 7):
        statistics.add(part)
    merged, whole = (shrunk(one, REFERENCE, 10.0) for one in (statistics, GroupStatistics().add(features)))
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-6)
    np.testing.assert_allclose(merged.variance, whole.variance, rtol=1e-6)


def test_a_small_group_is_pulled_towards_what_it_is_part_of() -> None:
    batch = Scale(np.full(3, 30.0, np.float32), np.full(3, 4.0, np.float32))
    features = features_of(20, 70.0, 1.0)
    strong, weak = (shrunk(GroupStatistics().add(features), batch, prior).mean for prior in (100.0, 1.0))
    assert (np.abs(strong - 30) < np.abs(weak - 30)).all()
    assert (np.abs(weak - features.mean(axis=0)) < 5).all()


def test_recordings_without_a_speaker_are_unchanged() -> None:
    features = features_of(4, 70.0, 9.0)
    known = SpeakerScales(features, ["", "a", "", "a"], REFERENCE)
    for scales in (known.of_speakers(range(4)), known.of_random_examples(range(4), np.random.default_rng(0))):
        for number in (0, 2):
            np.testing.assert_array_equal(scales[number], identity_scale(REFERENCE))
            np.testing.assert_array_equal(applied(features[number], scales[number]), features[number])
        assert (scales[1] != identity_scale(REFERENCE)).all()


def test_a_random_subset_has_the_example_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    features, speakers = features_of(50, 3.0, 2.0), ["a"] * 30 + ["b"] * 20
    known, used = SpeakerScales(features, speakers, REFERENCE), []
    original = SpeakerScales._random_rows

    def spied(self: SpeakerScales, index: int, random: np.random.Generator) -> np.ndarray:
        used.append(original(self, index, random))
        return used[-1]

    monkeypatch.setattr(SpeakerScales, "_random_rows", spied)
    scales = known.of_random_examples(range(50), np.random.default_rng(0))
    for index, rows in enumerate(used):
        assert index in rows
        assert len({speakers[one] for one in rows}) == 1
        assert len(set(rows.tolist())) == len(rows)
        expected = scale_to(shrunk(GroupStatistics().add(features[rows]), REFERENCE, 10.0), REFERENCE)
        np.testing.assert_allclose(scales[index], expected, rtol=1e-4, atol=1e-4)
    sizes = sorted(map(len, used))
    assert sizes[0] == 1
    assert sizes[-1] > 10
    assert sizes[25] < 12  # evenly on a logarithmic scale


def test_a_random_subset_of_a_speaker_with_many_recordings_is_bounded() -> None:
    features = features_of(30_000, 3.0, 2.0)
    known = SpeakerScales(features, ["a"] * 30_000, REFERENCE)
    sizes = [len(known._random_rows(index, np.random.default_rng(index))) for index in range(300)]
    assert 100 < max(sizes) <= 201


def test_random_subsets_are_a_function_of_their_seed() -> None:
    known = SpeakerScales(features_of(40, 3.0, 2.0), ["a"] * 25 + ["b"] * 15, REFERENCE)
    one, again, other = (known.of_random_examples(range(40), np.random.default_rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 0.01
