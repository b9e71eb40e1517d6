"""Frame-level descriptors: pitch, level and spectral shape over time."""

from __future__ import annotations

from typing import Any

import librosa
import numpy as np
from keras import ops
from numpy.typing import NDArray

from ser_batch.audio.frontends import FrontEnd

# Pitch candidates: 24 per octave, over three octaves.
_PITCHES_HZ = 70.0 * 2.0 ** (np.arange(73) / 24.0)
# Width of a harmonic's ridge in the spectrum; above the second frequency, harmonics are too close to be resolved.
_RIDGE_HZ = 14.0
_HARMONICS_TO_HZ = 2000.0

_N_COARSE = 64

# Lower limit of the level of a band, relative to the recording's own level.
_FLOOR_DB = -65.0

_SMALL = 1e-6
# Of power.
_NEPERS_PER_DB = float(np.log(10.0) / 10.0)


def at_reference_level(log_mel: Any) -> Any:
    """The levels of all bands relative to the recording's own, ``(batch, frames, n_mels)``, at least `_FLOOR_DB`.

    The reference is the mean level of all cells, weighted by power: silence around the speech does not change it.
    """
    levels = ops.transpose(log_mel, (0, 2, 1))
    loudest = ops.max(levels, axis=(1, 2), keepdims=True)
    power = ops.exp((levels - loudest) * _NEPERS_PER_DB)
    reference = ops.sum(power * levels, axis=(1, 2), keepdims=True) / ops.sum(power, axis=(1, 2), keepdims=True)
    return ops.maximum(levels - reference, _FLOOR_DB)


class Spectrum:
    """Curves over time that describe the spectrum's shape; Keras tensors ``(batch, frames)``."""

    def __init__(self, fine: Any, front_end: FrontEnd) -> None:
        bands_hz = _centres_hz(front_end)
        # Mel filters have unit area: multiplied by the filter's width, the output is the band's power.
        widths_hz = np.gradient(bands_hz)
        n_joined = front_end.n_mels // _N_COARSE
        groups = np.kron(np.eye(_N_COARSE), np.ones((n_joined, 1)))
        joined = (groups * (widths_hz / widths_hz[0])[:, None]).astype(np.float32)
        self._power = ops.matmul(ops.exp(fine * _NEPERS_PER_DB), joined)  # (batch, frames, coarse bands)
        self._centres_hz = bands_hz.reshape(_N_COARSE, n_joined).mean(axis=1)
        self.coarse = _decibels(self._power, front_end.db_floor)
        total = ops.sum(self._power, -1)
        self.level = _decibels(total, front_end.db_floor)
        self._shares = self._power / ops.expand_dims(total, -1)
        octaves = np.log2(self._centres_hz / 1000.0)
        self.centroid = ops.sum(self._shares * _constant(octaves), -1)
        self._octaves = octaves
        # Zwicker's loudness grows with about the .3rd power of a band's power.
        self.loudness = ops.sqrt(ops.sum(ops.exp(self.coarse * (0.3 * _NEPERS_PER_DB)), -1))

    def _band_db(self, low_hz: float, high_hz: float) -> Any:
        inside = (self._centres_hz >= low_hz) & (self._centres_hz < high_hz)
        return _decibels(ops.sum(self._power * _constant(inside), -1), _SMALL)

    def _slope(self, low_hz: float, high_hz: float) -> Any:
        """Slope of the least-squares line through the bands' levels, in dB per kHz."""
        inside = (self._centres_hz >= low_hz) & (self._centres_hz < high_hz)
        khz = np.where(inside, (self._centres_hz - self._centres_hz[inside].mean()) / 1000.0, 0.0)
        return ops.sum(self.coarse * _constant(khz / (khz @ khz)), -1)

    def _peak(self, low_hz: float, high_hz: float) -> Any:
        """Estimate of a formant's frequency: softmax-weighted centre of the bands, in octaves over 500 Hz."""
        inside = np.flatnonzero((self._centres_hz >= low_hz) & (self._centres_hz < high_hz))
        bands = slice(int(inside[0]), int(inside[-1]) + 1)
        weights = ops.softmax(self.coarse[..., bands] / 4.0, -1)
        return ops.sum(weights * _constant(np.log2(self._centres_hz[bands] / 500.0)), -1)

    def curves(self) -> list[Any]:
        """Loudness, centroid, spread, alpha ratio, Hammarberg index, share of high frequencies, three slopes,
        flux, entropy, four cepstra, three peaks.
        """
        distance = ops.expand_dims(self.centroid, -1) - _constant(self._octaves)
        spread = ops.sqrt(ops.sum(self._shares * ops.square(distance), -1) + _SMALL)
        alpha = self._band_db(1000, 5000) - self._band_db(50, 1000)
        n_low, n_high = (int((self._centres_hz < hz).sum()) for hz in (2000, 5000))
        hammarberg = ops.max(self.coarse[..., :n_low], -1) - ops.max(self.coarse[..., n_low:n_high], -1)
        high = self._band_db(4000, 8000) - self.level
        shape = self.coarse - ops.mean(self.coarse, -1, keepdims=True)
        flux = ops.sqrt(ops.mean(ops.square(shape[:, 1:] - shape[:, :-1]), -1) + _SMALL)
        flux = ops.pad(flux, [[0, 0], [1, 0]])
        entropy = -ops.sum(self._shares * ops.log(self._shares + 1e-9), -1)
        cepstra = ops.matmul(self.coarse, _cosines(_N_COARSE, 5)[:, 1:])
        slopes = [self._slope(*range_hz) for range_hz in ((50, 500), (500, 1500), (1500, 5000))]
        peaks = [self._peak(*range_hz) for range_hz in ((200, 1000), (800, 2600), (2000, 3800))]
        return [
            self.loudness, self.centroid, spread, alpha, hammarberg, high, *slopes, flux, entropy,
            *(cepstra[..., number] for number in range(4)), *peaks,
        ]  # fmt: skip


def _saliences(fine: Any, front_end: FrontEnd) -> Any:
    """Salience of each pitch candidate, ``(batch, frames, pitches)``.

    The level of the harmonics above the valleys between them, in decibels, as a weighted sum with lower weights for
    higher harmonics (after Hermes, "Measurement of pitch by subharmonic summation", 1988).
    """
    audible = ops.maximum(fine, ops.max(fine, axis=(1, 2), keepdims=True) - 70.0)
    return ops.matmul(audible, _combs(_centres_hz(front_end))) / 10.0


def _centres_hz(front_end: FrontEnd) -> NDArray[np.float64]:
    """Centres of the mel bands, float64 ``(n_mels,)``."""
    edges_hz: NDArray[np.float64] = librosa.mel_frequencies(
        front_end.n_mels + 2, fmin=front_end.fmin_hz, fmax=front_end.fmax_hz
    )
    return edges_hz[1:-1]


def _pitch(saliences: Any) -> Any:
    """Pitch in octaves over the lowest candidate, ``(batch, frames)``: the candidates' mean, weighted by salience."""
    octaves = np.log2(_PITCHES_HZ / _PITCHES_HZ[0])
    return ops.sum(ops.softmax(1.5 * saliences, -1) * _constant(octaves), -1)


def _combs(centres_hz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Weight of each band for each pitch candidate, float32 ``(n_mels, pitches)``."""
    combs = np.zeros((len(centres_hz), len(_PITCHES_HZ)))
    for comb, pitch_hz in zip(combs.T, _PITCHES_HZ, strict=True):
        for harmonic in range(1, int(_HARMONICS_TO_HZ // pitch_hz) + 1):
            ridge, before, after = (
                np.exp(-0.5 * np.square((centres_hz - place * pitch_hz) / _RIDGE_HZ))
                for place in (harmonic, harmonic - 0.5, harmonic + 0.5)
            )
            comb += 0.9**harmonic / np.sqrt(harmonic) * (ridge - 0.5 * before - 0.5 * after)
        comb /= np.sqrt(np.square(comb).sum())
    return combs.astype(np.float32)


def _decibels(power: Any, floor: float) -> Any:
    return ops.log(power + floor) / _NEPERS_PER_DB


def _cosines(n_bands: int, n_cepstra: int) -> NDArray[np.float32]:
    """The orthonormal DCT-II, ``(n_bands, n_cepstra)``."""
    orders = np.arange(n_cepstra)
    cosines = np.cos(np.pi * np.outer(np.arange(n_bands) + 0.5, orders) / n_bands)
    return _constant(cosines * np.sqrt(np.where(orders == 0, 1.0, 2.0) / n_bands))


def _constant(values: NDArray[Any]) -> NDArray[np.float32]:
    return np.asarray(values, dtype=np.float32)
