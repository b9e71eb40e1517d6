"""Statistics over time of curves ``(batch, frames, curves)`` with frame weights ``(batch, frames)``."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from keras import ops

from ser_batch.models.networks.descriptors import _N_COARSE, _SMALL, _constant

_MODULATION_EDGES_HZ = (0.45, 1.5, 3.0, 5.0, 8.0, 12.0, 18.0, 31.3)
_N_MODULATED = 8
# Smaller changes count as a part of a rising or falling frame, so that rounding does not decide between the two.
_WHOLE_STEP = 1e-2


def _curve_statistics(curves: Any, weights: Any) -> Any:
    """Mean, deviation, five percentiles and a range, changes up and down, over one and four frames, and skewness."""
    mean, deviation = _moments(curves, weights)
    percentiles = _quantiles(curves, weights, (0.1, 0.2, 0.5, 0.8, 0.9))
    steps, both = _steps(curves, weights, 1)
    step_weights = ops.expand_dims(both, -1)
    total = ops.sum(step_weights, 1) + _SMALL
    rising, falling = (ops.clip(sign * steps / _WHOLE_STEP, 0.0, 1.0) * step_weights for sign in (1.0, -1.0))
    scaled = (curves - ops.expand_dims(mean, 1)) / ops.expand_dims(deviation, 1)
    skewness = _mean(scaled * scaled * scaled, weights)
    return ops.concatenate(
        [
            mean,
            deviation,
            *percentiles,
            percentiles[3] - percentiles[1],
            ops.sum(step_weights * ops.abs(steps), 1) / total,
            ops.sqrt(ops.sum(step_weights * ops.square(steps), 1) / total + _SMALL),
            ops.sum(rising * steps, 1) / (ops.sum(rising, 1) + 1.0),
            ops.sum(falling * steps, 1) / (ops.sum(falling, 1) + 1.0),
            _change(curves, weights, 4),
            skewness,
        ],
        -1,
    )


def _rates(loudness: Any, voiced: Any, loud: Any, real: Any, frames_per_sec: float) -> Any:
    """Loudness peaks and voiced segments per second, mean segment lengths, shares of frames, and length."""
    n_frames = ops.sum(real, 1)
    (median,) = _quantiles(_column(loudness), real, (0.5,))
    middle, before, after = loudness[:, 1:-1], loudness[:, :-2], loudness[:, 2:]
    peaks = ops.cast((middle > after) & (middle >= before) & (middle > median), "float32") * real[:, 2:]
    lengths = []
    for inside in (voiced, real - voiced):
        n_stretches = ops.sum(inside[:, 1:] * (1.0 - inside[:, :-1]), 1) + inside[:, 0]
        lengths.append((n_stretches, ops.log(ops.sum(inside, 1) / ops.maximum(n_stretches, 1.0) + 1.0)))
    (n_voiced, voiced_length), (_, unvoiced_length) = lengths
    return ops.stack(
        [
            ops.sum(peaks, 1) / n_frames * frames_per_sec,
            n_voiced / n_frames * frames_per_sec,
            voiced_length,
            unvoiced_length,
            ops.sum(voiced, 1) / n_frames,
            ops.sum(loud, 1) / n_frames,
            ops.log(n_frames),
        ],
        -1,
    )


def _correlations(curves: Any, weights: Any) -> Any:
    """Pearson's correlation of every pair of curves."""
    size = curves.shape[-1]
    mean, deviation = _moments(curves, weights)
    centred = curves - ops.expand_dims(mean, 1)
    weighted = ops.transpose(centred * ops.expand_dims(weights, -1), (0, 2, 1))
    covariances = ops.matmul(weighted, centred) / (ops.sum(weights, 1)[:, None, None] + _SMALL)
    correlations = covariances / (ops.expand_dims(deviation, 1) * ops.expand_dims(deviation, 2) + 1e-3)
    rows, columns = np.triu_indices(size, 1)
    return ops.take(ops.reshape(correlations, (-1, size * size)), rows * size + columns, axis=1)


def _correlation(first: Any, second: Any, weights: Any) -> Any:
    pair = ops.stack([first, second], -1)
    mean, deviation = _moments(pair, weights)
    scaled = (pair - ops.expand_dims(mean, 1)) / (ops.expand_dims(deviation, 1) + 1e-3)
    return _mean(scaled[..., :1] * scaled[..., 1:], weights)[:, 0]


def _modulations(bands: Any, real: Any, frames_per_sec: float) -> Any:
    """Log modulation power of groups of bands in ranges of modulation frequency."""
    groups = np.kron(np.eye(_N_MODULATED), np.ones((_N_COARSE // _N_MODULATED, 1))) / (_N_COARSE // _N_MODULATED)
    levels = ops.matmul(bands, _constant(groups))
    levels = (levels - ops.expand_dims(_mean(levels, real), 1)) * ops.expand_dims(real, -1)
    frequencies_hz = np.arange(2, 128) * frames_per_sec / 256.0
    frames = ops.cumsum(ops.ones_like(real), 1) - 1.0
    phases = ops.expand_dims(frames, -1) * _constant(2.0 * np.pi * frequencies_hz / frames_per_sec)
    turned = ops.transpose(levels, (0, 2, 1))
    power = ops.square(ops.matmul(turned, ops.cos(phases))) + ops.square(ops.matmul(turned, ops.sin(phases)))
    ranges = np.zeros((len(frequencies_hz), len(_MODULATION_EDGES_HZ) - 1))
    for column, (low_hz, high_hz) in zip(ranges.T, pairwise(_MODULATION_EDGES_HZ), strict=True):
        inside = (frequencies_hz >= low_hz) & (frequencies_hz < high_hz)
        column[inside] = 1.0 / inside.sum()
    power = power / ops.sum(real, 1)[:, None, None]
    return ops.reshape(ops.log(ops.matmul(power, _constant(ranges)) + 1e-2), (-1, _N_MODULATED * ranges.shape[1]))


def _mean(curves: Any, weights: Any) -> Any:
    return ops.sum(curves * ops.expand_dims(weights, -1), 1) / (ops.sum(weights, 1, keepdims=True) + _SMALL)


def _moments(curves: Any, weights: Any) -> tuple[Any, Any]:
    mean = _mean(curves, weights)
    return mean, ops.sqrt(_mean(ops.square(curves - ops.expand_dims(mean, 1)), weights) + _SMALL)


def _steps(curves: Any, weights: Any, lag: int) -> tuple[Any, Any]:
    """Differences over ``lag`` frames, and their weights."""
    return curves[:, lag:] - curves[:, :-lag], weights[:, lag:] * weights[:, :-lag]


def _change(curves: Any, weights: Any, lag: int) -> Any:
    """Root mean square of the differences over ``lag`` frames."""
    steps, step_weights = _steps(curves, weights, lag)
    return ops.sqrt(_mean(ops.square(steps), step_weights) + _SMALL)


def _quantiles(curves: Any, chosen: Any, shares: Sequence[float]) -> list[Any]:
    """Quantiles over the chosen frames, one for each share.

    ``chosen`` is 1 or 0, ``(batch, frames)``.
    """
    ordered = ops.sort(ops.where(ops.expand_dims(chosen, -1) > 0, curves, 1e9), 1)
    n_chosen = ops.sum(chosen, 1)
    places = [ops.maximum(ops.cast(ops.ceil(n_chosen * share - 1e-3), "int32") - 1, 0) for share in shares]
    found = ops.take_along_axis(ordered, ops.expand_dims(ops.stack(places, 1), -1), 1)
    return [found[:, number] for number in range(len(shares))]


def _column(curve: Any) -> Any:
    return ops.expand_dims(curve, -1)
