import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from ser_batch.evaluation.intervals import SpeakerCounts, count_by_speaker, interval_over_speakers
from ser_batch.evaluation.metrics import expected_calibration_error, reliability, score

LABELS = ("anger", "fear", "joy", "sadness")
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=60)


@given(pairs=PAIRS)
def test_figures_are_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = zip(*pairs, strict=True)
    scores = score(truth, predicted, LABELS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label is predicted that is never true
        assert scores.uar == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    assert scores.wa == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert (scores.confusion == metrics.confusion_matrix(truth, predicted, labels=range(4))).all()
    columns = metrics.precision_recall_fscore_support(truth, predicted, labels=range(4), zero_division=0.0)
    for one, precision, recall, f1, support in zip(scores.classes, *columns, strict=True):
        assert (one.precision, one.recall, one.f1) == pytest.approx((precision, recall, f1))
        assert one.support == support


def test_uar_is_over_the_labels_that_are_present() -> None:
    scores = score([0, 0, 1, 1], [0, 0, 1, 3], LABELS)
    assert scores.uar == pytest.approx(0.75)
    assert [one.support for one in scores.classes] == [2, 2, 0, 0]


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    assert score([0, 0, 0], [1, 1, 0], LABELS).confusion[0].tolist() == [1, 2, 0, 0]


def test_a_constant_answer_has_the_uar_of_chance() -> None:
    scores = score([0] * 90 + [1, 2, 3], [0] * 93, LABELS)
    assert scores.uar == 0.25
    assert scores.wa == pytest.approx(90 / 93)


def test_calibration_error_by_hand() -> None:
    # Bins of a half: .6 and .8 are in the second, one of two right; .4 in the first, right.
    probabilities = [[0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
    found = reliability(probabilities, [0, 0, 2], n_bins=2)
    assert found.counts.tolist() == [1, 2]
    assert found.confidence.tolist() == pytest.approx([0.4, 0.7])
    assert found.accuracy.tolist() == [1.0, 0.5]
    assert found.error == pytest.approx(1 / 3 * 0.6 + 2 / 3 * 0.2)


def test_a_bin_holds_its_upper_edge() -> None:
    assert reliability([[0.5, 0.5], [1.0, 0.0], [0.51, 0.49]], [0, 0, 0], n_bins=2).counts.tolist() == [1, 2]


def test_certain_and_right_has_no_error_certain_and_wrong_has_nothing_else() -> None:
    assert expected_calibration_error([[1.0, 0.0]] * 5, [0] * 5) == 0.0
    assert expected_calibration_error([[1.0, 0.0]] * 5, [1] * 5) == 1.0


def test_the_error_is_near_zero_where_confidence_is_true() -> None:
    chance = np.random.default_rng(2)
    sure = chance.uniform(0.5, 1, 50_000)
    truth = (chance.random(50_000) > sure).astype(int)
    probabilities = np.stack([sure, 1 - sure], axis=1)
    assert expected_calibration_error(probabilities, truth) < 0.01
    assert expected_calibration_error(probabilities**4 / (probabilities**4).sum(axis=1, keepdims=True), truth) > 0.1


def clustered(n_speakers: int, seed: int, per_speaker: int = 40) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Truth, whether it was recognised, and speakers, of whom some are understood and some are not."""
    chance = np.random.default_rng(seed)
    clear = np.repeat(chance.beta(3, 1.5, n_speakers), per_speaker)
    truth = np.tile(np.arange(per_speaker) % 4, n_speakers)
    speakers = [f"{who:03d}" for who in range(n_speakers) for _ in range(per_speaker)]
    return truth, chance.random(len(clear)) < clear, speakers


def tallied(truth: np.ndarray, right: np.ndarray, speakers: list[str]) -> SpeakerCounts:
    return count_by_speaker(truth, right, speakers, range(len(truth)), 4)


def test_the_interval_is_that_of_the_theory() -> None:
    truth, right, speakers = clustered(60, seed=1)
    found = interval_over_speakers(tallied(truth, right, speakers))
    by_speaker = right.reshape(60, -1).mean(axis=1)
    error = by_speaker.std() / np.sqrt(60)
    assert (found.over, found.units) == ("speakers", 60)
    assert found.wa == pytest.approx((right.mean() - 1.96 * error, right.mean() + 1.96 * error), abs=0.1 * error)
    assert found.uar == pytest.approx(found.wa, abs=0.1 * error)  # labels are balanced
    assert all(limits is not None and limits[1] - limits[0] > 3 * error for limits in found.recalls)


def test_speakers_make_wider_intervals_than_recordings() -> None:
    truth, right, speakers = clustered(10, seed=1)
    by_speaker = interval_over_speakers(tallied(truth, right, speakers))
    by_recording = interval_over_speakers(tallied(truth, right, [""] * len(truth)))
    assert (by_recording.over, by_recording.units) == ("recordings", 400)
    assert by_speaker.uar[1] - by_speaker.uar[0] > 1.5 * (by_recording.uar[1] - by_recording.uar[0])
    share = right.mean()
    width = 2 * 1.96 * np.sqrt(share * (1 - share) / 400)
    assert by_recording.wa[1] - by_recording.wa[0] == pytest.approx(width, rel=0.05)


def test_nineteen_of_twenty_intervals_hold_the_truth() -> None:
    held = 0
    for seed in range(200):
        low, high = interval_over_speakers(tallied(*clustered(30, seed)), n_resamples=1000).wa
        held += low <= 3 / 4.5 <= high
    assert 180 <= held <= 198


def test_seeds_of_a_speaker_travel_together() -> None:
    truth, right, speakers = clustered(10, seed=3)
    once = interval_over_speakers(tallied(truth, right, speakers))
    thrice = interval_over_speakers(
        count_by_speaker(np.tile(truth, 3), np.tile(right, 3), speakers * 3, list(range(len(truth))) * 3, 4)
    )
    assert thrice == once
    unknown = count_by_speaker(np.tile(truth, 3), np.tile(right, 3), [""] * 1200, list(range(400)) * 3, 4)
    assert len(unknown.support) == 400


def test_one_speaker_has_no_interval_over_speakers() -> None:
    truth, right, _ = clustered(1, seed=4)
    found = interval_over_speakers(tallied(truth, right, ["anna"] * len(truth)))
    assert found.over == "recordings"
    assert found.wa[0] < right.mean() < found.wa[1]


def test_one_unknown_speaker_is_enough_to_draw_recordings() -> None:
    truth, right, speakers = clustered(5, seed=4)
    assert tallied(truth, right, ["", *speakers[1:]]).over == "recordings"


def test_a_label_that_few_speakers_have_may_be_absent_from_a_draw() -> None:
    found = interval_over_speakers(count_by_speaker([0, 0, 1, 0], [True, True, False, True], list("aabb"), range(4), 3))
    assert found.uar == (0.5, 1.0)
    assert found.recalls == ((1.0, 1.0), (0.0, 0.0), None)


def test_one_recording_is_its_own_interval() -> None:
    found = interval_over_speakers(count_by_speaker([1], [True], ["anna"], ["x"], 3))
    assert (found.uar, found.wa, found.units) == ((1.0, 1.0), (1.0, 1.0), 1)
