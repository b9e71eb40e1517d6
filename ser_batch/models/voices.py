"""Voices: groups of recordings with similar speakers and microphones, found without labels.

Embeddings are projected to a space in which the training speakers differ and the recordings of one speaker do not:
linear discriminant analysis of the speakers on principal components (as for i-vectors: Dehak, Kenny, Dehak, Dumouchel
and Ouellet, "Front-End Factor Analysis for Speaker Verification", 2011). In this space the variance within a training
speaker is 1 along every axis, so the distances between the recordings of one speaker are known, and no number of
speakers has to be given.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.models.arrays import ArrayFile

Float64s = NDArray[np.float64]

_MOST_COMPONENTS = 60
# Added to the variance within speakers, as a share of its mean.
_REGULARISATION = 0.1
# Groups are joined while the mean distance of their recordings is at most so many standard deviations above the mean
# distance of two recordings of one speaker. Chosen over EmoDB and RAVDESS: docs/accuracy.md.
DEVIATIONS = 1.2
# Recordings that are clustered; more are assigned to the nearest group, so that memory is bounded.
_MOST_CLUSTERED = 2_000


@dataclass(frozen=True, eq=False)
class VoiceSpace(ArrayFile):
    """The projection to the voice space.

    Attributes:
        mean: of the features of the training examples, float32 ``(features,)``.
        axes: float32 ``(features, dimensions)``; there are fewer dimensions than training speakers.
    """

    mean: Float32s
    axes: Float32s

    def project(self, features: Float32s) -> Float64s:
        """Voice vectors, float64 ``(n, dimensions)``; a row does not depend on the other rows.

        Args:
            features: standardised features of recordings normalised by batch, float32 ``(n, features)``; those after
                the features that the space was fitted to are ignored.
        """
        offsets = (features[:, : len(self.mean)] - self.mean).astype(np.float64)
        projected: Float64s = offsets @ self.axes.astype(np.float64)
        return projected

    def find(self, vectors: Float64s, names: Sequence[str]) -> NDArray[np.int64]:
        """The voice of each recording, int64 ``(n,)``: from 0, in order of decreasing number of recordings.

        Agglomerative clustering with average linkage. It does not depend on the order of the recordings.

        Args:
            vectors: of `project`, float64 ``(n, dimensions)``.
            names: a unique name of each recording, which chooses those that are clustered.
        """
        # Here, as infer without voices does not need it; scikit-learn's clustering is the same, and a second to import.
        from scipy.cluster.hierarchy import fcluster, linkage

        if len(vectors) < 2:
            return np.zeros(len(vectors), np.int64)
        order = order_by_digest(names)
        chosen = np.array(order[:_MOST_CLUSTERED])
        # With variance 1 along d axes, the distance has the mean sqrt(2 d) and the standard deviation 1, for large d.
        threshold = np.sqrt(2.0 * vectors.shape[1]) + DEVIATIONS
        found = fcluster(linkage(vectors[chosen], "average"), threshold, "distance") - 1
        centres = np.stack([vectors[chosen[found == group]].mean(axis=0) for group in range(found.max() + 1)])
        nearest = np.empty(len(vectors), np.int64)
        nearest[chosen] = found
        for row in order[_MOST_CLUSTERED:]:
            nearest[row] = np.square(vectors[row] - centres).sum(axis=1).argmin()
        counts, first = np.bincount(nearest, minlength=len(centres)), np.argsort(order)
        rank = sorted(range(len(centres)), key=lambda group: (-counts[group], first[nearest == group].min(initial=0)))
        numbers = np.empty(len(centres), np.int64)
        numbers[rank] = np.arange(len(centres))
        return numbers[nearest]


def order_by_digest(names: Sequence[str]) -> list[int]:
    """The places of the names in an order that looks random and depends on the names only."""
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogatepass")).digest() for name in names]
    return sorted(range(len(names)), key=digests.__getitem__)


def fit_voice_space(features: Float32s, speakers: Sequence[str]) -> VoiceSpace | None:
    """Fit the voice space; None if the examples name fewer than three speakers.

    Args:
        features: standardised features of the training examples, not normalised by speaker, float32 ``(n, features)``.
        speakers: of the examples; those with an empty name are not used.
    """
    names = np.array(speakers, dtype=object)
    known = [name for name in sorted(set(speakers) - {""}) if (names == name).sum() > 1]
    if len(known) < 3:
        return None
    used = features[np.isin(names, known)].astype(np.float64)
    numbers = np.searchsorted(known, [name for name in speakers if name in set(known)])
    mean = used.mean(axis=0)
    components = np.linalg.svd(used - mean, full_matrices=False)[2][:_MOST_COMPONENTS].T
    projected = (used - mean) @ components
    centres = np.stack([projected[numbers == number].mean(axis=0) for number in range(len(known))])
    within = np.cov((projected - centres[numbers]).T, bias=True) * len(used) / max(len(used) - len(known), 1)
    within += _REGULARISATION * np.trace(within) / len(within) * np.eye(len(within))
    whitening = np.linalg.inv(np.linalg.cholesky(within)).T
    axes = np.linalg.svd((centres - centres.mean(axis=0)) @ whitening, full_matrices=False)[2]
    axes = axes[: min(len(known) - 1, len(within))].T
    return VoiceSpace(mean.astype(np.float32), (components @ whitening @ axes).astype(np.float32))
