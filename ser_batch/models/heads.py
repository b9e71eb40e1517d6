"""The head of a network: from the embedding of a recording to the probabilities of the labels.

A network is an encoder, from a log-mel spectrogram to an embedding, and a head: normalisation by speaker or batch,
standardisation, and one softmax layer. The encoder runs on each recording; the head runs on stored embeddings, as the
normalisation needs those of the whole batch. NumPy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.models.arrays import ArrayFile
from ser_batch.models.normalisation import Scale

# Standardised features are clipped to this range, to limit the effect of outliers.
MAX_DEVIATIONS = 5.0
SMALLEST_VARIANCE = 1e-6


@dataclass(frozen=True, eq=False)
class Head(ArrayFile):
    """The arrays of a head.

    Attributes:
        mean, variance: of the embeddings of the training examples, float32 ``(features,)`` each. With normalisation by
            speaker, they are also what every speaker's statistics are transformed to.
        kernel: of the softmax layer, float32 ``(features, labels)``.
        bias: of the softmax layer, float32 ``(labels,)``.
    """

    mean: Float32s
    variance: Float32s
    kernel: Float32s
    bias: Float32s

    @property
    def reference(self) -> Scale:
        """The mean and variance that speakers and batches are transformed to."""
        return Scale(self.mean, self.variance)

    def features(self, embeddings: Float32s, scales: Float32s | None = None) -> Float32s:
        """The input of the softmax layer, float32 ``(n, features)``.

        Args:
            embeddings: float32 ``(n, features)``.
            scales: factor and offset for each embedding, float32 ``(n, 2, features)``; None: not normalised.
        """
        if scales is not None:
            embeddings = embeddings * scales[:, 0] + scales[:, 1]
        features: Float32s = standardise(embeddings, self.reference, np)
        return features

    def probabilities(self, features: Float32s) -> NDArray[np.float64]:
        """Probabilities before calibration, float64 ``(n, labels)``, of `features`."""
        # In double precision, so that a row does not depend on the number of rows, even by rounding.
        logits = features.astype(np.float64) @ self.kernel.astype(np.float64) + self.bias
        shares: NDArray[np.float64] = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        return shares


def standardise(values: Any, scale: Scale, library: Any) -> Any:
    """Features with mean 0 and deviation 1, clipped to `MAX_DEVIATIONS` deviations.

    Args:
        values: an array or tensor ``(n, features)``.
        scale: of the training examples.
        library: ``numpy``, or ``keras.ops``.
    """
    deviation = np.sqrt(scale.variance + SMALLEST_VARIANCE)
    return library.clip((values - scale.mean) / deviation, -MAX_DEVIATIONS, MAX_DEVIATIONS)
