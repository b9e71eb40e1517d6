import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from ser_batch.results.scores import score

LABELS = ("anger", "fear", "joy", "sadness")


def test_figures_are_scikit_learns() -> None:
    chance = np.random.default_rng(1)
    truth = chance.integers(0, 4, 300).tolist()
    predicted = np.where(chance.random(300) < 0.6, truth, chance.integers(0, 4, 300)).tolist()
    scores = score(truth, predicted, LABELS)
    assert scores.uar == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert scores.wa == pytest.approx(accuracy_score(truth, predicted))
    assert scores.confusion.sum() == 300


def test_uar_is_over_the_labels_that_are_present() -> None:
    scores = score([0, 0, 1, 1], [0, 0, 1, 3], LABELS)
    assert scores.uar == pytest.approx(0.75)
    assert [one.support for one in scores.classes] == [2, 2, 0, 0]


def test_rows_are_the_truth_and_columns_the_prediction() -> None:
    assert score([0, 0, 0], [1, 1, 0], LABELS).confusion[0].tolist() == [1, 2, 0, 0]
