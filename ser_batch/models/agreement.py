"""Agreement: how far small models, trained on different speakers, give a batch the same labels.

Where recordings are unlike the training data, models of different speakers agree less, and so does the model of all of
them agree less with the truth (Jiang, Nagarajan, Baek and Kolter, "Assessing Generalization of SGD via Disagreement",
ICLR 2022). After adaptation to the batch, the distance to the training data hardly shows this; the agreement does. No
labels of the batch are used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.models.arrays import ArrayFile

_MOST_MEMBERS, _FEWEST_MEMBERS = 5, 3
# Weight of the sum of squares of a member's kernel, beside the mean loss of its examples.
_PENALTY = 0.1
# The temperature of a batch is exp(slope * loss of agreement), where the loss is greater than that of new speakers of
# the training corpus. Chosen over EmoDB and RAVDESS, within and between them: docs/accuracy.md.
_SLOPE, _LOSS_OF_NEW_SPEAKERS = 7.5, 0.05
# A batch that is unlike the training data before adaptation is taken to need this temperature, and any other 1, until
# many recordings show its agreement: pseudo-recordings.
_UNFAMILIAR_TEMPERATURE, _PRIOR_RECORDINGS = 1.6, 20.0


@dataclass(frozen=True, eq=False)
class Agreement(ArrayFile):
    """Small linear models of disjoint groups of the training speakers.

    Attributes:
        kernels: of their softmax layers, float32 ``(members, features, labels)``.
        biases: float32 ``(members, labels)``.
        expected: share of pairs of members that agree on a training recording, of those pairs that were not trained on
            its speaker.
    """

    kernels: Float32s
    biases: Float32s
    expected: float

    def of(self, features: Float32s) -> float:
        """The share of pairs of members that agree, mean over the recordings ``(n, features)``.

        Features after those that the members were fitted to are ignored.
        """
        return _pairs_agree(self._labels(features), np.ones((len(self.kernels), len(features)), np.bool_))

    def _labels(self, features: Float32s) -> NDArray[np.intp]:
        """The label of each recording by each member, int ``(members, n)``."""
        exact = features[:, : self.kernels.shape[1]].astype(np.float64)
        return np.stack(
            [(exact @ kernel + bias).argmax(1) for kernel, bias in zip(self.kernels, self.biases, strict=True)]
        )


def batch_temperature(agreement: Agreement | None, features: Float32s, n_recordings: int, is_unfamiliar: bool) -> float:
    """What divides the logits of a batch, beside the temperature of the calibration; 1 or more.

    Args:
        agreement: of the bundle; None: not available.
        features: adapted ones of recordings of the batch, float32 ``(n, features)``; the input of the softmax layer.
        n_recordings: in the batch, which may be more than ``n``.
        is_unfamiliar: whether the batch is unlike the training data before adaptation.
    """
    prior = math.log(_UNFAMILIAR_TEMPERATURE) if is_unfamiliar else 0.0
    if agreement is None or not len(features):
        return math.exp(prior)
    loss = max(0.0, float(agreement.expected) - agreement.of(features) - _LOSS_OF_NEW_SPEAKERS)
    return math.exp((n_recordings * _SLOPE * loss + _PRIOR_RECORDINGS * prior) / (n_recordings + _PRIOR_RECORDINGS))


def fit_agreement(
    alone: Float32s, adapted: Float32s, labels: NDArray[np.int64], speakers: Sequence[str], n_labels: int
) -> Agreement | None:
    """Fit the members to the training examples; None if these name too few speakers, or a group has one label only.

    Args:
        alone, adapted: standardised features of the training examples, without and with normalisation by speaker,
            float32 ``(n, features)`` each.
        labels: of the examples, from 0 to ``n_labels`` - 1.
        speakers: of the examples; those with an empty name are not used.
        n_labels: of the model.
    """
    from sklearn.linear_model import LogisticRegression  # here, as infer does not need it

    names = np.array(speakers, dtype=object)
    known = sorted(set(speakers) - {""})
    n_members = min(len(known), _MOST_MEMBERS)
    if n_members < _FEWEST_MEMBERS:
        return None
    groups = np.array([known.index(name) % n_members if name else -1 for name in names])
    if any(len(np.unique(labels[groups == number])) < 2 for number in range(n_members)):
        return None
    kernels = np.zeros((n_members, alone.shape[1], n_labels), np.float32)
    biases = np.full((n_members, n_labels), -np.inf, np.float32)  # a label that a group does not have
    for number in range(n_members):
        rows = groups == number
        values, of_rows = np.concatenate([alone[rows], adapted[rows]]), np.tile(labels[rows], 2)
        model = LogisticRegression(C=0.5 / (_PENALTY * len(values)), class_weight="balanced", max_iter=300)
        model.fit(values, of_rows)
        found = model.classes_
        if len(found) == 2:
            kernels[number][:, found] = np.stack([-model.coef_[0], model.coef_[0]], axis=1) / 2
            biases[number][found] = np.array([-model.intercept_[0], model.intercept_[0]]) / 2
        else:
            kernels[number][:, found] = model.coef_.T
            biases[number][found] = model.intercept_
    members = Agreement(kernels, biases, expected=0.0)
    is_new = (groups != np.arange(n_members)[:, None]) & (groups >= 0)
    return Agreement(kernels, biases, _pairs_agree(members._labels(adapted), is_new))


def _pairs_agree(labels: NDArray[np.intp], is_used: NDArray[np.bool_]) -> float:
    """The share of pairs of members with the same label for a recording, of the pairs that are used for it.

    Args:
        labels: int ``(members, n)``.
        is_used: bool ``(members, n)``.
    """
    same = used = 0
    for one, other in itertools.combinations(range(len(labels)), 2):
        both = is_used[one] & is_used[other]
        same += int((labels[one] == labels[other])[both].sum())
        used += int(both.sum())
    return same / used
