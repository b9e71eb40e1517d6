"""The front ends in the public calls that define them; tests and tools hold ser_batch to these."""

import librosa
import numpy as np
import scipy.signal
from numpy.typing import NDArray

SEED_RATE_HZ = 44_100
SEED_SAMPLES = 132_300
SPEECH_RATE_HZ = 16_000
SPEECH_SAMPLES = 160_000


def public_log_mel(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The seed front end: float32 ``(128, 259)`` in dB under the loudest bin.

    Args:
        samples: mono waveform, float32 ``(samples,)``.
        rate_hz: its sampling rate.
    """
    resampled = librosa.resample(samples, orig_sr=rate_hz, target_sr=SEED_RATE_HZ)
    trimmed, _ = librosa.effects.trim(resampled)
    filtered = scipy.signal.wiener(trimmed)
    fixed = librosa.util.fix_length(filtered, size=SEED_SAMPLES)
    power = librosa.feature.melspectrogram(y=fixed, sr=SEED_RATE_HZ, n_fft=2048, hop_length=512, n_mels=128)
    return librosa.power_to_db(power, ref=np.max).astype(np.float32)


def public_speech_log_mel(samples: NDArray[np.float32], rate_hz: int) -> NDArray[np.float32]:
    """The speech front end's first window: float32 ``(192, 1 + samples // 256)`` in dB over a power of 1."""
    resampled = librosa.resample(samples, orig_sr=rate_hz, target_sr=SPEECH_RATE_HZ)
    samples = resampled[:SPEECH_SAMPLES]
    power = librosa.feature.melspectrogram(
        y=samples, sr=SPEECH_RATE_HZ, n_fft=1024, hop_length=256, n_mels=192, fmin=0.0, fmax=8000.0
    )
    return librosa.power_to_db(power, ref=1.0, amin=1e-8, top_db=None).astype(np.float32)
