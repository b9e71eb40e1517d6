"""Predictions and truth to the figures that are published: UAR, WA, per class, confusion matrix."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassScore:
    """How well one label was recognised.

    Attributes:
        label: its name.
        precision, recall, f1: 0 to 1; precision is 0 where the label was never predicted.
        support: how many recordings truly have it.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Scores:
    """All figures of one set of predictions.

    Attributes:
        uar: unweighted average recall: the mean of the recalls of the labels present in the truth.
        wa: weighted accuracy: the share of correct predictions.
        classes: one score per label.
        confusion: int64 ``(labels, labels)``: row: the truth, column: the prediction.
    """

    uar: float
    wa: float
    classes: tuple[ClassScore, ...]
    confusion: NDArray[np.int64]

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object; the matrix has a file of its own."""
        return {
            "uar": round(self.uar, 6),
            "wa": round(self.wa, 6),
            "recordings": int(self.confusion.sum()),
            "classes": {
                score.label: {
                    "precision": round(score.precision, 6),
                    "recall": round(score.recall, 6),
                    "f1": round(score.f1, 6),
                    "support": score.support,
                }
                for score in self.classes
            },
        }


def score(truth: Sequence[int], predicted: Sequence[int], labels: Sequence[str]) -> Scores:
    """Score predictions.

    Args:
        truth: index of the true label of each recording.
        predicted: index of the predicted one.
        labels: their names.
    """
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    indices = list(range(len(labels)))
    confusion = confusion_matrix(truth, predicted, labels=indices)
    columns = precision_recall_fscore_support(truth, predicted, labels=indices, zero_division=0.0)
    classes = tuple(
        ClassScore(label, float(precision), float(recall), float(f1), int(support))
        for label, precision, recall, f1, support in zip(labels, *columns, strict=True)
    )
    present = [one.recall for one in classes if one.support]
    return Scores(float(np.mean(present)), float(np.trace(confusion) / confusion.sum()), classes, confusion)
