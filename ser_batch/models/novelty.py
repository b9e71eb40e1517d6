"""Novelty: how far a recording lies from what a network was trained on.

The network's last features are taken to be spread around one centre per label, all alike (a Gaussian with a
shared covariance); a recording is as far away as from the nearest centre (Lee, Lee, Lee and Shin, "A Simple Unified
Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS 2018).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.waveforms import Float32s

# Added to the covariance's diagonal, as a share of its mean: a feature that hardly moved in training must not
# make everything new.
_RIDGE = 1e-2
_MEDIAN, _TAIL = 0.5, 0.95


@dataclass(frozen=True, eq=False)
class Novelty:
    """What distances are measured with, and how they become a figure from 0 to 1.

    Attributes:
        centres: float32 ``(labels, features)``; only of labels that were trained on.
        whitening: float32 ``(features, features)``: after it, the spread around every centre is the same in
            all directions.
        scale, shape: the figure is ``1 - exp(-(distance / scale) ** shape)``, which is .5 at the median of the
            training examples' distances and .95 at their 95th percentile.
    """

    centres: Float32s
    whitening: Float32s
    scale: float
    shape: float

    def of(self, features: Float32s) -> NDArray[np.float64]:
        """The novelty of each row of ``(n, features)``, 0 to 1."""
        figures: NDArray[np.float64] = -np.expm1(-((self._distances(features) / self.scale) ** self.shape))
        return figures

    def _distances(self, features: Float32s) -> NDArray[np.float64]:
        return _distances(
            features.astype(np.float64) @ self.whitening, self.centres @ self.whitening.astype(np.float64)
        )

    def save(self, file: IO[bytes]) -> None:
        """Write all values as a NumPy archive."""
        np.savez(file, centres=self.centres, whitening=self.whitening, scale=self.scale, shape=self.shape)

    @classmethod
    def load(cls, path: Path) -> Novelty:
        """What ``save`` wrote.

        Raises:
            OSError, KeyError, ValueError, BadZipFile: it is missing or damaged.
        """
        with np.load(path) as stored:
            return cls(stored["centres"], stored["whitening"], float(stored["scale"]), float(stored["shape"]))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all values."""
        values = (self.centres.tobytes(), self.whitening.tobytes(), repr((self.scale, self.shape)).encode())
        return hashlib.sha256(b"".join(values)).hexdigest()


Batches = Callable[[], Iterable[tuple[Float32s, NDArray[np.int64]]]]


def fit_novelty(batches: Batches) -> Novelty:
    """Learn from the training examples.

    Args:
        batches: gives features ``(batch, features)`` and labels ``(batch,)``; called twice, so that not all have to
            be held in memory.
    """
    sums: dict[int, NDArray[np.float64]] = {}
    counts: dict[int, int] = {}
    squares: NDArray[np.float64] | float = 0.0
    for features, labels in batches():
        exact = features.astype(np.float64)
        squares = squares + exact.T @ exact
        for label in np.unique(labels).tolist():
            of_label = exact[labels == label]
            sums[label] = sums.get(label, 0.0) + of_label.sum(axis=0)
            counts[label] = counts.get(label, 0) + len(of_label)
    centres = np.array([sums[label] / counts[label] for label in sorted(sums)])
    weights = np.array([counts[label] for label in sorted(sums)], dtype=np.float64)
    covariance = (squares - (centres.T * weights) @ centres) / weights.sum()
    ridge = _RIDGE * np.trace(covariance) / len(covariance) + 1e-12
    values, vectors = np.linalg.eigh(covariance + ridge * np.eye(len(covariance)))
    whitening = vectors / np.sqrt(values)
    white_centres = centres @ whitening
    distances = np.concatenate([_distances(f.astype(np.float64) @ whitening, white_centres) for f, _ in batches()])
    median, tail = np.maximum(np.quantile(distances, [_MEDIAN, _TAIL]), 1e-9)
    tail = max(tail, 1.001 * median)  # a handful of examples may all be equally far away
    shape = np.log(np.log1p(-_TAIL) / np.log1p(-_MEDIAN)) / np.log(tail / median)
    scale = median / (-np.log1p(-_MEDIAN)) ** (1.0 / shape)
    return Novelty(centres.astype(np.float32), whitening.astype(np.float32), float(scale), float(shape))


def _distances(white: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """From each row to the nearest centre."""
    squares = np.square(white[:, None, :] - centres[None, :, :]).sum(axis=2)
    nearest: NDArray[np.float64] = np.sqrt(squares.min(axis=1))
    return nearest
