"""The front end as TensorFlow operations, for exported models that take a waveform. It imports TensorFlow.

The same steps as `ser_batch.audio.logmels`, but no resampling. Results differ from it by rounding only.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.mel import mel_filters

_TRIM_FRAME_SAMPLES = 2048
_TRIM_HOP_SAMPLES = 512


def log_mels_of(samples: Any, front_end: FrontEnd) -> Any:
    """The log-mel spectrograms of all windows of a waveform.

    Args:
        samples: mono waveform at the front end's rate, a float32 tensor ``(samples,)``, at least one sample.
        front_end: settings of the transform.

    Returns:
        A float32 tensor ``(windows, n_mels, n_frames)``, in dB.
    """
    if front_end.longer == "truncate":
        whole = samples if front_end.trim_top_db is None else _trimmed(samples, front_end.trim_top_db)
        parts = (_wiener(whole) if front_end.wiener else whole)[None, : front_end.n_samples]
    else:
        parts = _windows(samples, front_end)
    if front_end.shorter == "pad":
        parts = tf.pad(parts, [[0, 0], [0, front_end.n_samples - tf.shape(parts)[1]]])
    return _decibels(_mel_power(parts, front_end), front_end)


def _windows(samples: Any, front_end: FrontEnd) -> Any:
    """Overlapping windows ``(windows, samples)``; the last ends with the audio. Short audio is one window."""
    length, hop = front_end.n_samples, front_end.window_hop_samples
    beyond = tf.maximum(tf.size(samples) - length, 0)
    starts = tf.range(0, beyond, hop)  # of the windows that end before the audio does
    indices = tf.concat([starts, [beyond]], 0)[:, None] + tf.range(tf.minimum(length, tf.size(samples)))
    return tf.gather(samples, indices)


def _mel_power(parts: Any, front_end: FrontEnd) -> Any:
    """Mel power of waveforms ``(windows, samples)``: float32 ``(windows, n_frames, n_mels)``."""
    half = front_end.n_fft // 2
    padded = tf.pad(parts, [[0, 0], [half, half]])
    frames = tf.signal.frame(padded, front_end.n_fft, front_end.hop_length)
    spectrum = tf.signal.rfft(frames * tf.signal.hann_window(front_end.n_fft, periodic=True))
    power = tf.square(tf.math.real(spectrum)) + tf.square(tf.math.imag(spectrum))
    return tf.matmul(power, mel_filters(front_end).T)


def _decibels(power: Any, front_end: FrontEnd) -> Any:
    levels = tf.math.log(tf.maximum(power, front_end.db_floor)) * (10.0 / math.log(10.0))
    if front_end.db_reference == "max":
        levels -= tf.reduce_max(levels, [1, 2], keepdims=True)
    if front_end.db_range is not None:
        levels = tf.maximum(levels, tf.reduce_max(levels, [1, 2], keepdims=True) - front_end.db_range)
    return tf.transpose(levels, (0, 2, 1))


def _trimmed(samples: Any, top_db: float) -> Any:
    """The waveform without quiet ends; see `ser_batch.audio.logmels.trim`."""
    half = _TRIM_FRAME_SAMPLES // 2
    frames = tf.signal.frame(tf.pad(samples, [[half, half]]), _TRIM_FRAME_SAMPLES, _TRIM_HOP_SAMPLES)
    amplitudes = tf.maximum(tf.sqrt(tf.reduce_mean(tf.square(frames), 1)), 1e-5)
    is_loud = 20.0 / math.log(10.0) * tf.math.log(amplitudes / tf.reduce_max(amplitudes)) > -top_db
    loud = tf.where(is_loud)[:, 0]
    return samples[loud[0] * _TRIM_HOP_SAMPLES : (loud[-1] + 1) * _TRIM_HOP_SAMPLES]


def _wiener(samples: Any) -> Any:
    """Wiener filter over three neighbours; see `ser_batch.audio.logmels.wiener`."""
    padded = tf.pad(samples, [[1, 1]])
    steps = padded[1:] - padded[:-1]
    first, second = steps[:-1], steps[1:]
    variance = 2.0 / 9.0 * (tf.square(first) + tf.square(second) + first * second)
    noise = tf.cast(tf.reduce_mean(tf.cast(variance, tf.float64)), tf.float32)
    mean = (padded[:-2] + padded[1:-1] + padded[2:]) / 3.0
    gain = tf.maximum(1.0 - noise / variance, 0.0)  # no variance: a gain of 0
    return tf.where(noise == 0.0, samples, mean + gain * (samples - mean))
