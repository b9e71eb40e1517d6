"""Temperature scaling: calibrated confidences, fitted on recordings that the network was not trained on.

One number T divides the logits; here the logarithms of the probabilities, which differ from the logits by a constant
per row, so that softmax gives the same (Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks",
ICML 2017). The confidence changes, the predicted label does not.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

_MIN_TEMPERATURE, _MAX_TEMPERATURE = 0.05, 20.0
# Chosen on EmoDB and RAVDESS: the largest loss against a temperature of 1 is small, and most of the gain is kept. See
# docs/accuracy.md.
_PRIOR_SPEAKERS = 3
# The logits of a recording that is unlike the training data are divided by its relative distance to this power. Chosen
# over EmoDB and RAVDESS, within and between them, and over perturbed recordings: docs/accuracy.md.
DISTANCE_EXPONENT = 2.0
# Lower bound: probabilities that a float32 softmax rounds to 0.
_MIN_PROBABILITY = float(np.finfo(np.float32).tiny)


def fit_temperature(probabilities: ArrayLike, truth: ArrayLike, speakers: Sequence[str] = ()) -> float | None:
    """The temperature with the least mean negative log-likelihood of the truth, between 0.05 and 20.

    The temperature of a few speakers is often wrong for others. Its logarithm is multiplied by ``n / (n + 3)`` for n
    speakers, which brings it nearer to 1.

    Args:
        probabilities: float ``(n, labels)``, each row summing to 1, of recordings the network was not trained on.
        truth: int ``(n,)``, the index of each row's true label.
        speakers: of each row; empty or with empty names: not known, the temperature is used as it is.

    Returns:
        The temperature; None where it cannot be fitted: there are no recordings, or all are predicted correctly, so
        that the likelihood grows without limit as the temperature falls.
    """
    from scipy.optimize import minimize_scalar  # here, as workers of infer import this module, too

    logs = _logarithms(probabilities)
    rows = np.arange(len(logs))
    labels = np.asarray(truth, dtype=np.int64)
    if not len(logs) or bool((logs[rows, labels] == logs.max(axis=1)).all()):
        return None

    def loss(log_temperature: float) -> float:
        return -float(np.mean(_log_softmax(logs / math.exp(log_temperature))[rows, labels]))

    best = minimize_scalar(
        loss, bounds=(math.log(_MIN_TEMPERATURE), math.log(_MAX_TEMPERATURE)), method="bounded", options={"xatol": 1e-6}
    )
    n_speakers = len({*speakers})
    share = 1.0 if not n_speakers or "" in speakers else n_speakers / (n_speakers + _PRIOR_SPEAKERS)
    return math.exp(share * float(best.x))


def distance_temperature(excess: NDArray[np.float64]) -> NDArray[np.float64]:
    """What divides the logits of a recording, beside the temperature that was fitted; 1 or more.

    Args:
        excess: of `ser_batch.models.novelty.Novelty.excess`, ``(n,)``.
    """
    factor: NDArray[np.float64] = np.exp(DISTANCE_EXPONENT * excess)
    return factor


def apply_temperature(probabilities: ArrayLike, temperature: float | NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities at another temperature: less confident above 1, more below; the order within a row does not change.

    Args:
        probabilities: float ``(n, labels)``, each row summing to 1.
        temperature: positive, of all rows or of each, ``(n,)``; 1 changes nothing.

    Returns:
        float64 ``(n, labels)``, each row summing to 1.
    """
    of_rows = np.broadcast_to(temperature, len(np.asarray(probabilities)))[:, None]
    scaled: NDArray[np.float64] = np.exp(_log_softmax(_logarithms(probabilities) / of_rows))
    return np.where(of_rows == 1.0, probabilities, scaled)


def _logarithms(probabilities: ArrayLike) -> NDArray[np.float64]:
    logarithms: NDArray[np.float64] = np.log(np.maximum(np.asarray(probabilities, dtype=np.float64), _MIN_PROBABILITY))
    return logarithms


def _log_softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
