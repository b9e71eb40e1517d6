"""Novelty: the distance of a recording from the training data of a network.

The network's last features are modelled as Gaussian around one centre per label, with a shared covariance; the distance
is measured to the nearest centre (Lee, Lee, Lee and Shin, "A Simple Unified Framework for Detecting
Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018). Only the diagonal of the covariance is used: with
more features than examples the rest cannot be estimated.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.models.arrays import ArrayFile

_MEDIAN, _TAIL = 0.5, 0.95
# Recordings with a higher novelty are farther from the training data than 95 % of the training recordings.
UNFAMILIAR = _TAIL


@dataclass(frozen=True, eq=False)
class Novelty(ArrayFile):
    """Centres and deviations of the training data, and the mapping of distances to novelty from 0 to 1.

    Attributes:
        centres: float32 ``(labels, features)``, of the labels in the training data.
        deviations: float32 ``(features,)``, standard deviations around the centres.
        scale, shape: novelty is ``1 - exp(-(distance / scale) ** shape)``, which is .5 at the median of the
            training examples' distances and .95 at their 95th percentile.
    """

    centres: Float32s
    deviations: Float32s
    scale: float
    shape: float

    def of(self, features: Float32s) -> NDArray[np.float64]:
        """The novelty of each row of ``(n, features)``, 0 to 1."""
        novelty: NDArray[np.float64] = -np.expm1(-((self.distances(features) / self.scale) ** self.shape))
        return novelty

    def excess(self, features: Any, library: Any = np) -> Any:
        """The natural logarithm of each row's distance over the distance of `UNFAMILIAR`; 0 where it is not farther.

        Unlike the novelty, which is 1.00 for all recordings that are far away, it grows with the distance.

        Args:
            features: an array or tensor ``(n, features)``.
            library: ``numpy``, or ``keras.ops``.
        """
        edge = self.scale * (-np.log1p(-UNFAMILIAR)) ** (1.0 / self.shape)
        return library.log(library.maximum(self.distances(features, library) / edge, 1.0))

    def distances(self, features: Any, library: Any = np) -> Any:
        """The root mean square offset, in deviations, of each row of ``(n, features)`` from the nearest centre.

        Features after those that it was fitted to are ignored.
        """
        used = features[:, : self.centres.shape[1]]
        exact = used.astype(np.float64) if library is np else used
        squares = [library.mean(library.square((exact - one) / self.deviations), axis=1) for one in self.centres]
        return library.sqrt(library.min(library.stack(squares), axis=0))


Batches = Callable[[], Iterable[tuple[Float32s, NDArray[np.int64]]]]


def fit_novelty(batches: Batches) -> Novelty:
    """Fit a `Novelty` to the training examples.

    Args:
        batches: returns features ``(batch, features)`` and labels ``(batch,)``; called twice, so that only one batch
            at a time is in memory.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    counts: dict[int, int] = {}
    squares: NDArray[np.float64] | float = 0.0
    for features, labels in batches():
        exact = features.astype(np.float64)
        squares = squares + np.square(exact).sum(axis=0)
        for label in np.unique(labels).tolist():
            of_label = exact[labels == label]
            sums[label] = sums.get(label, 0.0) + of_label.sum(axis=0)
            counts[label] = counts.get(label, 0) + len(of_label)
    centres = np.array([sums[label] / counts[label] for label in sorted(sums)])
    weights = np.array([counts[label] for label in sorted(sums)], dtype=np.float64)
    variances = (squares - weights @ np.square(centres)) / weights.sum()
    # Lower bound on variance: features that are constant in training would dominate the distance.
    deviations = np.sqrt(np.maximum(variances, 1e-4 * variances.mean() + 1e-12))
    unscaled = Novelty(centres.astype(np.float32), deviations.astype(np.float32), scale=1.0, shape=1.0)
    distances = np.concatenate([unscaled.distances(features) for features, _ in batches()])
    median, tail = np.maximum(np.quantile(distances, [_MEDIAN, _TAIL]), 1e-9)
    tail = max(tail, 1.001 * median)  # the distances of few examples may all be equal
    shape = np.log(np.log1p(-_TAIL) / np.log1p(-_MEDIAN)) / np.log(tail / median)
    scale = median / (-np.log1p(-_MEDIAN)) ** (1.0 / shape)
    return dataclasses.replace(unscaled, scale=float(scale), shape=float(shape))
