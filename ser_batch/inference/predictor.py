"""Prediction for one log-mel with the network of a bundle."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import BundleError
from ser_batch.models.bundles import Bundle, open_bundle
from ser_batch.models.calibration import apply_temperature

Float64s = NDArray[np.float64]

# Takes a log-mel ``(n_mels, n_frames)`` and the scale of its speaker; returns a row of `Result` without the times.
Network = Callable[[Float32s, Float32s | None], Float64s]


class Predictor:
    """Probabilities and novelty from the network of a bundle.

    Args:
        bundle: with network, temperature and novelty.

    Raises:
        BundleError: the bundle is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._network = bundle.load_runtime()
        self._novelty = bundle.load_novelty()
        self._temperature = bundle.content.temperature

    def at(self, temperature: float) -> Predictor:
        """The same predictor with another temperature; 1: uncalibrated probabilities."""
        other = copy.copy(self)
        other._temperature = temperature
        return other

    def __call__(self, log_mel: Float32s, speaker_scale: Float32s | None = None) -> Float64s:
        """Probabilities of the labels, then the novelty: float64 ``(labels + 1,)``.

        Args:
            log_mel: float32 ``(n_mels, n_frames)``.
            speaker_scale: float32 ``(2, features)``, for bundles that normalise by speaker; None: unknown speaker.
        """
        output = self._network(log_mel, speaker_scale)
        calibrated = apply_temperature(output.probabilities, self._temperature)
        return np.append(calibrated, self._novelty.of(output.features[None]))

    def functionals(self, log_mel: Float32s, speaker_scale: Float32s | None = None) -> Float64s:
        """Functionals, for speaker statistics of bundles that normalise by speaker: float64 ``(features,)``."""
        return self._network(log_mel, speaker_scale).functionals.astype(np.float64)


@lru_cache(maxsize=1)
def cached_predictor(path: Path, fingerprint: str) -> Predictor:
    """The predictor of a bundle folder, cached: one for each process.

    Raises:
        BundleError: the bundle is damaged, or was replaced since it had this fingerprint.
    """
    bundle = open_bundle(path)
    if bundle.fingerprint != fingerprint:
        raise BundleError(f"{path}: was replaced during the run; run the same command again")
    return Predictor(bundle)


def functionals_predictor(path: Path, fingerprint: str) -> Network:
    """`Predictor.functionals` of a bundle folder, for `PredictionOptions.functionals`."""
    return cached_predictor(path, fingerprint).functionals
