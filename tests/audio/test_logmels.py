import math

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_batch.audio.frontends import SEED, SPEECH
from ser_batch.audio.logmels import (
    PADDING_DB,
    fix_length,
    log_mel,
    log_mel_at_rate,
    mel_power,
    power_to_db,
    resample,
    trim,
    wiener,
)
from ser_batch.audio.mel import mel_filters
from ser_batch.audio.signal_checks import MAX_SAMPLE
from tests.frontends import WINDOWED
from tests.reference import public_log_mel, public_speech_log_mel

RATES_HZ = [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]
PRESETS = [pytest.param(SEED, id="seed"), pytest.param(SPEECH, id="speech")]
PADDED_AND_KEPT = [*PRESETS, pytest.param(WINDOWED, id="windowed")]

# Computed by public_log_mel and public_speech_log_mel, so that a drift of librosa or SciPy shows as well.
GOLDEN_FILE = "03a01Wa.wav"
GOLDEN_SEED = {
    (0, 0): -58.43,
    (5, 150): -53.27,
    (10, 20): -26.47,
    (20, 50): -47.37,
    (30, 100): -28.95,
    (40, 60): -53.90,
    (60, 120): -39.11,
    (80, 80): -58.01,
    (88, 30): -54.44,
    (95, 150): -75.29,
    (127, 50): -80.0,
}
GOLDEN_SPEECH = {
    (0, 0): -28.78,
    (5, 90): -8.04,
    (20, 20): 10.51,
    (40, 50): -20.85,
    (80, 80): -23.40,
    (100, 60): -20.17,
    (140, 110): -27.93,
    (180, 30): -38.64,
    (191, 117): -77.92,
}


def noise(n_samples, seed=0, level=0.1):
    return (level * np.random.default_rng(seed).standard_normal(n_samples)).astype(np.float32)


def click(n_samples, at, level=0.9):
    samples = np.zeros(n_samples, dtype=np.float32)
    samples[at] = level
    return samples


@pytest.mark.parametrize(
    ("front_end", "golden"), [(SEED, GOLDEN_SEED), (SPEECH, GOLDEN_SPEECH)], ids=["seed", "speech"]
)
def test_golden_numbers(emodb_sample, front_end, golden):
    samples, rate_hz = soundfile.read(emodb_sample / GOLDEN_FILE, dtype="float32")
    made = log_mel(samples, rate_hz, front_end)
    assert {cell: float(made[cell]) for cell in golden} == pytest.approx(golden, abs=0.015)


@pytest.mark.parametrize("name", ["03a01Wa.wav", "10b02La.wav", "16b03Ta.wav"])
def test_seed_is_the_public_calls_on_speech(emodb_sample, name):
    samples, rate_hz = soundfile.read(emodb_sample / name, dtype="float32")
    made = log_mel(samples, rate_hz, SEED)
    assert made.dtype == np.float32
    assert made.shape == (128, 259)
    np.testing.assert_allclose(made, public_log_mel(samples, rate_hz), rtol=0, atol=0.01)


def test_seed_is_the_public_calls_on_all_of_emodb(emodb):
    files = sorted(emodb.glob("*.wav"))
    assert len(files) == 535
    worst = {}
    for path in files:
        samples, rate_hz = soundfile.read(path, dtype="float32")
        difference = log_mel(samples, rate_hz, SEED) - public_log_mel(samples, rate_hz)
        worst[path.name] = float(np.abs(difference).max())
    assert max(worst.values()) <= 0.01


@pytest.mark.parametrize("rate_hz", RATES_HZ)
@pytest.mark.parametrize("sound", ["noise", "click"])
@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value):RuntimeWarning:scipy")
def test_both_presets_are_the_public_calls_at_every_rate(rate_hz, sound):
    samples = noise(2 * rate_hz) if sound == "noise" else click(2 * rate_hz, rate_hz // 2)
    np.testing.assert_allclose(log_mel(samples, rate_hz, SEED), public_log_mel(samples, rate_hz), rtol=0, atol=0.01)
    np.testing.assert_allclose(
        log_mel(samples, rate_hz, SPEECH), public_speech_log_mel(samples, rate_hz), rtol=0, atol=0.01
    )


@pytest.mark.parametrize("secs", [0.05, 1.0, 2.999, 3.0, 5.0, 9.999, 10.0, 12.0])
def test_both_presets_are_the_public_calls_at_every_length(secs):
    samples = noise(round(secs * 16_000), seed=3)
    np.testing.assert_allclose(log_mel(samples, 16_000, SEED), public_log_mel(samples, 16_000), rtol=0, atol=0.01)
    np.testing.assert_allclose(
        log_mel(samples, 16_000, SPEECH), public_speech_log_mel(samples, 16_000), rtol=0, atol=0.01
    )


@pytest.mark.parametrize("front_end", PRESETS)
def test_mel_filters_are_librosas_to_the_last_bit(front_end):
    expected = librosa.filters.mel(
        sr=front_end.rate_hz,
        n_fft=front_end.n_fft,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
    )
    np.testing.assert_array_equal(mel_filters(front_end), expected)


@pytest.mark.parametrize("front_end", PRESETS)
def test_mel_power_is_librosas(front_end):
    samples = noise(front_end.n_samples)
    expected = librosa.feature.melspectrogram(
        y=samples,
        sr=front_end.rate_hz,
        n_fft=front_end.n_fft,
        hop_length=front_end.hop_length,
        n_mels=front_end.n_mels,
        fmin=front_end.fmin_hz,
        fmax=front_end.fmax_hz,
    )
    made = mel_power(samples, front_end)
    assert made.shape == expected.shape == (front_end.n_mels, front_end.n_frames)
    np.testing.assert_allclose(made, expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_resample_is_librosas(rate_hz):
    samples = noise(rate_hz + 17)
    for target_hz in (16_000, 44_100):
        expected = librosa.resample(samples, orig_sr=rate_hz, target_sr=target_hz)
        np.testing.assert_array_equal(resample(samples, rate_hz, target_hz), expected)


@pytest.mark.parametrize("n_samples", [1, 511, 512, 2047, 2048, 5000, 40_000])
def test_trim_is_librosas_at_every_length(n_samples):
    samples = noise(n_samples)
    np.testing.assert_array_equal(trim(samples, 60.0), librosa.effects.trim(samples)[0])


@pytest.mark.parametrize(("before", "after"), [(0, 9000), (9000, 0), (9000, 7000), (100, 100), (5120, 5120)])
def test_trim_cuts_quiet_ends_where_librosa_does(before, after):
    samples = np.concatenate([noise(before, level=1e-6), noise(20_000), noise(after, level=1e-6)])
    made = trim(samples, 60.0)
    np.testing.assert_array_equal(made, librosa.effects.trim(samples)[0])
    if before + after > 10_000:
        assert len(made) < len(samples)


@pytest.mark.parametrize("n_samples", [1, 2, 3, 10, 50_000])
def test_wiener_is_scipys(n_samples):
    samples = noise(n_samples)
    np.testing.assert_allclose(wiener(samples, len(samples)), scipy.signal.wiener(samples), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("front_end", PRESETS)
def test_power_to_db_is_librosas(front_end):
    power = np.square(noise(64 * 100)).reshape(64, 100)
    power[5, 7] = 0
    expected = librosa.power_to_db(
        power,
        ref=np.max if front_end.db_reference == "max" else 1.0,
        amin=front_end.db_floor,
        top_db=front_end.db_range,
    )
    np.testing.assert_allclose(power_to_db(power, front_end), expected, rtol=0, atol=1e-4)


def test_fix_length_cuts_and_pads_at_the_end():
    samples = np.array([1, 2, 3], dtype=np.float32)
    assert fix_length(samples, 2).tolist() == [1, 2]
    assert fix_length(samples, 3).tolist() == [1, 2, 3]
    assert fix_length(samples, 5).tolist() == [1, 2, 3, 0, 0]


def test_the_seed_sees_nothing_after_three_seconds():
    samples = noise(5 * 44_100)
    longer = np.concatenate([samples, noise(44_100, seed=1)])
    filtered_alike = SEED.replace(wiener=False)
    np.testing.assert_array_equal(
        log_mel(samples, 44_100, filtered_alike), log_mel(longer, 44_100, filtered_alike), strict=True
    )


def test_audio_shorter_than_speechs_length_is_not_padded():
    whole = log_mel(noise(48_000), 16_000, SPEECH)
    assert whole.shape == (SPEECH.n_mels, 1 + 48_000 // SPEECH.hop_length)
    half = log_mel(noise(48_000)[:24_000], 16_000, SPEECH)
    beyond = SPEECH.n_fft // SPEECH.hop_length  # frames that reach beyond the end
    same = half.shape[1] - beyond
    np.testing.assert_allclose(half[:, :same], whole[:, :same], atol=1e-4)
    padded = log_mel(noise(48_000)[:24_000], 16_000, SPEECH.replace(shorter="pad"))
    np.testing.assert_allclose(padded[:, : half.shape[1]], half, atol=1e-4)
    assert (padded[:, half.shape[1] + beyond :] == padded.min()).all()


def test_no_audio_is_as_quiet_as_padding():
    faintest = log_mel(click(1_000, 500, level=1e-45), 16_000, SPEECH)
    assert faintest.min() > PADDING_DB / 2


def expected_shape(n_samples, rate_hz, front_end):
    if front_end.shorter == "pad":
        return front_end.shape
    n_used = min(math.ceil(n_samples * (front_end.rate_hz / rate_hz)), front_end.n_samples)
    return front_end.n_mels, 1 + n_used // front_end.hop_length


def odd_signals():
    alternating = np.ones(20_000, dtype=np.float32)
    alternating[::2] = -1
    return {
        "constant": np.full(20_000, 0.5, dtype=np.float32),
        "near silence": noise(20_000, level=1e-7),
        "denormal": np.full(20_000, 1e-40, dtype=np.float32),
        "one sample": np.array([0.3], dtype=np.float32),
        "ten samples": noise(10),
        "full scale": alternating,
        "silence, then a click": click(40_000, 39_000),
        "faint click": click(40_000, 20_000, level=1e-20),
        "faintest click": click(40_000, 20_000, level=1e-45),
        "as loud as is read": alternating * np.float32(MAX_SAMPLE),
        "one huge sample": click(40_000, 20_000, level=MAX_SAMPLE),
    }


@pytest.mark.parametrize("name", odd_signals())
@pytest.mark.parametrize("front_end", PADDED_AND_KEPT)
@pytest.mark.parametrize("rate_hz", [8_000, 16_000, 44_100])
@pytest.mark.filterwarnings("error")
def test_odd_signals_give_finite_numbers(name, front_end, rate_hz):
    samples = odd_signals()[name]
    made = log_mel(samples, rate_hz, front_end)
    assert made.shape == expected_shape(len(samples), rate_hz, front_end)
    assert made.dtype == np.float32
    assert np.isfinite(made).all()


@pytest.mark.parametrize("front_end", PADDED_AND_KEPT)
@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-MAX_SAMPLE, MAX_SAMPLE, width=32), min_size=1, max_size=60).filter(any),
    silence=st.integers(0, 5000),
    repeats=st.integers(1, 60),
    rate_hz=st.sampled_from(RATES_HZ),
)
def test_any_signal_that_is_read_gives_finite_numbers(front_end, values, silence, repeats, rate_hz):
    heard = np.tile(np.array(values, dtype=np.float32), repeats)
    samples = np.concatenate([np.zeros(silence, np.float32), heard])
    made = log_mel(samples, rate_hz, front_end)
    assert made.shape == expected_shape(len(samples), rate_hz, front_end)
    assert np.isfinite(made).all()


def test_the_samples_are_not_changed():
    samples = noise(20_000)
    before = samples.copy()
    for front_end in (SEED, SPEECH):
        log_mel_at_rate(samples, front_end)
    np.testing.assert_array_equal(samples, before)


def test_seed_levels_do_not_depend_on_loudness():
    samples = noise(44_100)
    np.testing.assert_allclose(log_mel(samples, 44_100, SEED), log_mel(samples / 4, 44_100, SEED), atol=0.001)


def test_speech_levels_follow_loudness():
    samples = noise(48_000)
    louder, softer = log_mel(samples, 16_000, SPEECH), log_mel(samples / 10, 16_000, SPEECH)
    np.testing.assert_allclose(louder - 20, softer, atol=0.001)
