"""Log-mel spectrograms of waveforms, for training and prediction.

Only NumPy, SciPy's FFT and soxr are used, because every import slows the start of worker processes. Each step equals a
function of librosa; the tests compare them.
"""

from functools import lru_cache

import numpy as np
import scipy.fft
import soxr
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.mel import mel_filters

# Padding of shorter log-mels in a batch: below the level of any audio, so that it differs from silence.
PADDING_DB = -1000.0

# Frame length and step of librosa.effects.trim, independent of the rate.
_TRIM_FRAME_SAMPLES = 2048
_TRIM_HOP_SAMPLES = 512

# The noise of a long signal is summed in parts of this length, to limit memory.
_WIENER_CHUNK_SAMPLES = 1 << 20

# Mel bands per matrix product: each group uses only its own range of FFT bins.
_MELS_PER_GROUP = 16


def log_mel(samples: Float32s, rate_hz: int, front_end: FrontEnd) -> Float32s:
    """The log-mel spectrogram of a waveform: all steps of the front end in order.

    Args:
        samples: mono waveform, float32 ``(samples,)``, at least one sample, all within 2**40.
        rate_hz: its sampling rate.
        front_end: settings of the transform.

    Returns:
        Decibels, float32 ``(n_mels, n_frames)``, all finite.
    """
    return log_mel_at_rate(resample(samples, rate_hz, front_end.rate_hz), front_end)


def log_mel_at_rate(samples: Float32s, front_end: FrontEnd) -> Float32s:
    """As `log_mel`, for a waveform that already has the front end's rate."""
    return log_mel_of_trimmed(trimmed(samples, front_end), front_end)


def trimmed(samples: Float32s, front_end: FrontEnd) -> Float32s:
    """The waveform without quiet ends if the front end trims, otherwise unchanged."""
    return samples if front_end.trim_top_db is None else trim(samples, front_end.trim_top_db)


def log_mel_of_trimmed(samples: Float32s, front_end: FrontEnd) -> Float32s:
    """The steps after trimming; audio beyond the front end's length is ignored."""
    if front_end.wiener:
        samples = wiener(samples, front_end.n_samples)
    keep = front_end.shorter == "keep" and len(samples) < front_end.n_samples
    power = mel_power(samples if keep else fix_length(samples, front_end.n_samples), front_end)
    return power_to_db(power, front_end)


def resample(samples: Float32s, rate_hz: int, target_hz: int) -> Float32s:
    """``librosa.resample`` with its default quality (soxr HQ).

    Returns:
        float32 ``(ceil(samples * target_hz / rate_hz),)``.
    """
    if rate_hz == target_hz:
        return samples
    n_samples = int(np.ceil(len(samples) * (target_hz / rate_hz)))
    return fix_length(soxr.resample(samples, rate_hz, target_hz, quality="soxr_hq"), n_samples)


def trim(samples: Float32s, top_db: float) -> Float32s:
    """``librosa.effects.trim``: without the frames at both ends that are ``top_db`` under the loudest.

    The waveform is padded with half a frame of zeros at both ends, so frame ``i`` is made of the four
    hops from ``i - 2`` on; the hops' energies are summed once and shared.
    """
    n_frames = 1 + len(samples) // _TRIM_HOP_SAMPLES
    hops_per_frame = _TRIM_FRAME_SAMPLES // _TRIM_HOP_SAMPLES
    padded = np.zeros((n_frames + hops_per_frame - 1) * _TRIM_HOP_SAMPLES, dtype=np.float32)
    first = _TRIM_FRAME_SAMPLES // 2
    fitting = samples[: len(padded) - first]
    padded[first : first + len(fitting)] = fitting
    hops = padded.reshape(-1, _TRIM_HOP_SAMPLES)
    hop_energies = np.einsum("ij,ij->i", hops, hops)
    frame_energies = np.convolve(hop_energies, np.ones(hops_per_frame), mode="valid")
    amplitudes = np.maximum(np.sqrt(frame_energies / _TRIM_FRAME_SAMPLES), 1e-5)
    loud = np.flatnonzero(20.0 * np.log10(amplitudes / amplitudes.max()) > -top_db)
    return samples[loud[0] * _TRIM_HOP_SAMPLES : (loud[-1] + 1) * _TRIM_HOP_SAMPLES]


def wiener(samples: Float32s, n_samples: int) -> Float32s:
    """The first ``n_samples`` of ``scipy.signal.wiener`` with its default width of 3.

    Lim, "Two-Dimensional Signal and Image Processing", 1990, p. 548: ``mean + (x - mean) * max(0, 1 - noise /
    variance)``, where the noise is the mean of the local variances of the whole signal.
    """
    total = 0.0
    for begin in range(0, len(samples), _WIENER_CHUNK_SAMPLES):
        part = _with_neighbours(samples, begin, min(begin + _WIENER_CHUNK_SAMPLES, len(samples)))
        total += float(_local_variance(part).sum(dtype=np.float64))
    noise = np.float32(total / len(samples))
    if noise == 0:
        return samples[:n_samples]
    padded = _with_neighbours(samples, 0, min(n_samples, len(samples)))
    mean = padded[:-2] + padded[1:-1]
    mean += padded[2:]
    mean *= np.float32(1 / 3)
    with np.errstate(divide="ignore", over="ignore"):  # zero variance: the gain becomes 0
        gain: Float32s = noise / _local_variance(padded)
    np.subtract(1, gain, out=gain)
    np.maximum(gain, 0, out=gain)
    gain *= padded[1:-1] - mean
    gain += mean
    return gain


def _with_neighbours(samples: Float32s, begin: int, end: int) -> Float32s:
    """The samples from ``begin`` to ``end`` and the one before and after them, zeros outside the signal."""
    padded = np.zeros(end - begin + 2, dtype=np.float32)
    first, last = max(begin - 1, 0), min(end + 1, len(samples))
    padded[first - begin + 1 : last - begin + 1] = samples[first:last]
    return padded


def _local_variance(padded: Float32s) -> Float32s:
    """The variance of three neighbours from their two differences, which avoids cancellation in float32.

    ``2/9 (d1**2 + d2**2 + d1 d2)``
    """
    steps = np.diff(padded)
    squares = np.square(steps)
    variance: Float32s = squares[:-1] + squares[1:]
    variance += steps[:-1] * steps[1:]
    variance *= np.float32(2 / 9)
    return variance


def fix_length(samples: Float32s, n_samples: int) -> Float32s:
    """The first ``n_samples``, with zeros at the end where there are fewer."""
    if len(samples) >= n_samples:
        return samples[:n_samples]
    fixed = np.zeros(n_samples, dtype=np.float32)
    fixed[: len(samples)] = samples
    return fixed


def mel_power(samples: Float32s, front_end: FrontEnd) -> Float32s:
    """``librosa.feature.melspectrogram``: centred Hann frames, power spectrum, Slaney mel filters.

    Returns:
        float32 ``(n_mels, n_frames)``.
    """
    half = front_end.n_fft // 2
    padded = np.zeros(len(samples) + 2 * half, dtype=np.float32)
    padded[half : half + len(samples)] = samples
    frames = sliding_window_view(padded, front_end.n_fft)[:: front_end.hop_length]
    spectrum = scipy.fft.rfft(frames * _hann(front_end.n_fft), axis=1, overwrite_x=True)
    power: Float32s = np.square(spectrum.real)
    power += np.square(spectrum.imag)
    mels: Float32s = np.empty((len(frames), front_end.n_mels), dtype=np.float32)
    for bands, bins, weights in _mel_groups(front_end):
        np.matmul(power[:, bins], weights, out=mels[:, bands])
    return mels.T


def power_to_db(power: Float32s, front_end: FrontEnd) -> Float32s:
    """``librosa.power_to_db``: ``10 log10(power / reference)``, with a floor and a range.

    Returns:
        float32, the shape of ``power``, C-contiguous.
    """
    decibels = np.log(np.maximum(power, np.float32(front_end.db_floor)), order="C")  # half the time of log10
    decibels *= np.float32(10.0 / np.log(10.0))
    if front_end.db_reference == "max":
        decibels -= decibels.max()
    if front_end.db_range is not None:
        np.maximum(decibels, decibels.max() - np.float32(front_end.db_range), out=decibels)
    return np.ascontiguousarray(decibels, dtype=np.float32)


@lru_cache(maxsize=4)
def _hann(n_fft: int) -> Float32s:
    """The periodic Hann window, ``(n_fft,)``."""
    phase: NDArray[np.float64] = 2.0 * np.pi * np.arange(n_fft) / n_fft
    return (0.5 - 0.5 * np.cos(phase)).astype(np.float32)


@lru_cache(maxsize=4)
def _mel_groups(front_end: FrontEnd) -> list[tuple[slice, slice, Float32s]]:
    """The mel filters in groups: (bands, FFT bins with nonzero weights, weights ``(bins, bands)``)."""
    filters = mel_filters(front_end)
    groups = []
    for first in range(0, front_end.n_mels, _MELS_PER_GROUP):
        bands = slice(first, min(first + _MELS_PER_GROUP, front_end.n_mels))
        reached = np.flatnonzero(filters[bands].any(axis=0))
        bins = slice(int(reached[0]), int(reached[-1]) + 1) if len(reached) else slice(0, 1)
        groups.append((bands, bins, np.ascontiguousarray(filters[bands, bins].T)))
    return groups
