import tracemalloc

import numpy as np
import pytest
import soundfile

from ser_batch.audio import windows
from ser_batch.audio.frontends import SEED, SPEECH
from ser_batch.audio.logmels import log_mel, resample
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording
from ser_batch.errors import AudioError
from tests.conftest import write_tone
from tests.frontends import WINDOWED

LENGTH, HOP = WINDOWED.n_samples, WINDOWED.window_hop_samples
PRESETS = [pytest.param(SEED, id="seed"), pytest.param(SPEECH, id="speech")]


def write(folder, samples, rate_hz=16_000, name="a.wav"):
    soundfile.write(folder / name, samples, rate_hz, subtype="FLOAT")
    return folder / name


def noise(n_samples, level=0.1):
    return (level * np.random.default_rng(0).standard_normal(n_samples)).clip(-0.9, 0.9).astype(np.float32)


def read(path, front_end=WINDOWED, start_secs=0.0, end_secs=None):
    reading = LogMelWindows(Recording("a", str(path), start_secs=start_secs, end_secs=end_secs), front_end)
    return list(reading), reading


def refusal(path, front_end=WINDOWED, **part):
    with pytest.raises(AudioError) as caught:
        read(path, front_end, **part)
    return caught.value


def spans(found):
    return [(window.start_secs, window.end_secs) for window in found]


@pytest.mark.parametrize("front_end", PRESETS)
@pytest.mark.parametrize("rate_hz", [8_000, 44_100])
def test_duration_is_that_of_the_file(tmp_path, front_end, rate_hz):
    found, reading = read(write_tone(tmp_path / "a.wav", secs=4.25, rate_hz=rate_hz), front_end)
    assert reading.duration_secs == 4.25
    assert found[0].start_secs == 0
    assert found[-1].end_secs == 4.25


def test_every_emodb_sample_is_read_without_a_warning_but_beginning_only(emodb_sample):
    for path in sorted(emodb_sample.glob("*.wav")):
        for front_end in (SEED, WINDOWED):
            _, reading = read(path, front_end)
            assert set(reading.warnings) <= {"beginning-only"}
            assert reading.duration_secs == soundfile.info(path).duration


@pytest.mark.parametrize("front_end", PRESETS)
@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(0), "no samples"),
        (np.zeros(5000), "digital silence"),
        (np.r_[noise(100), np.nan, noise(100)], "not finite, at 0.006 s"),
        (np.r_[noise(100), np.inf], "not finite"),
        (np.r_[-np.inf, noise(100)], "not finite, at 0.000 s"),
        (np.r_[noise(100_000), np.nan], "not finite, at 6.250 s"),
        (np.r_[noise(100), 3e38, noise(100)], "a sample of 3e+38"),
    ],
    ids=["none", "zeros", "nan", "inf", "-inf", "late nan", "3e38"],
)
def test_what_is_refused(tmp_path, front_end, samples, reason):
    error = refusal(write(tmp_path, samples.astype(np.float32)), front_end)
    assert error.stage == "check"
    assert reason in error.reason


@pytest.mark.parametrize("front_end", PRESETS)
@pytest.mark.parametrize("n_samples", [1, 10, 300])
def test_shorter_than_a_frame_is_short_but_not_refused(tmp_path, front_end, n_samples):
    found, reading = read(write(tmp_path, noise(n_samples)), front_end)
    assert len(found) == 1
    assert np.isfinite(found[0].log_mel).all()
    assert reading.warnings == ["short"]


def test_warnings(tmp_path):
    loud = noise(16_000)
    loud[5000:5004] = [1.0, -1.0, 1.0, 1.0]
    assert read(write(tmp_path, loud))[1].warnings == ["clipped"]
    assert read(write(tmp_path, noise(16_000, level=0.001)))[1].warnings == ["quiet"]
    assert read(write(tmp_path, noise(7_999)))[1].warnings == ["short"]
    assert read(write(tmp_path, noise(8_000)))[1].warnings == []
    assert read(write(tmp_path, noise(100, level=0.001)))[1].warnings == ["quiet", "short"]


@pytest.mark.parametrize("front_end", [SEED, SPEECH, WINDOWED], ids=["seed", "speech", "windows"])
@pytest.mark.parametrize(
    ("end_secs", "warnings"),
    [(None, []), (1.0, []), (2.0, []), (2.0004, []), (2.0006, ["end-beyond"]), (60.0, ["end-beyond"])],
)
def test_an_end_beyond_the_file_is_a_warning(tmp_path, front_end, end_secs, warnings):
    path = write(tmp_path, noise(32_000))
    assert read(path, front_end, 0.5, end_secs)[1].warnings == warnings
    assert read(path, front_end, 0.0, end_secs)[1].warnings == warnings


def test_a_peak_at_full_scale_is_not_clipped(tmp_path):
    peak = noise(16_000)
    peak[5000:5003] = 1.0
    assert read(write(tmp_path, peak))[1].warnings == []


def test_beginning_only_is_for_audio_longer_than_the_front_end_takes(tmp_path):
    assert read(write(tmp_path, noise(48_000)), SEED)[1].warnings == []
    assert read(write(tmp_path, noise(48_100)), SEED)[1].warnings == ["beginning-only"]
    assert read(write(tmp_path, noise(96_000)), WINDOWED)[1].warnings == []
    silent_end = np.r_[noise(40_000), np.zeros(100_000, dtype=np.float32)]
    assert read(write(tmp_path, silent_end), SEED)[1].warnings == []


def test_truncating_gives_one_window_for_the_whole_file(tmp_path):
    samples = noise(160_000)
    found, _ = read(write(tmp_path, samples), SEED)
    assert spans(found) == [(0.0, 10.0)]
    np.testing.assert_array_equal(found[0].log_mel, log_mel(samples, 16_000, SEED))


@pytest.mark.parametrize(
    ("n_samples", "starts"),
    [
        (100, [0]),
        (LENGTH - 1, [0]),
        (LENGTH, [0]),
        (LENGTH + 1, [0, 1]),
        (LENGTH + HOP - 1, [0, HOP - 1]),
        (LENGTH + HOP, [0, HOP]),
        (LENGTH + HOP + 1, [0, HOP, HOP + 1]),
        (LENGTH + 5 * HOP + 7, [0, HOP, 2 * HOP, 3 * HOP, 4 * HOP, 5 * HOP, 5 * HOP + 7]),
    ],
)
def test_windows_and_the_last_ends_with_the_file(tmp_path, n_samples, starts):
    samples = noise(n_samples)
    found, _ = read(write(tmp_path, samples))
    assert spans(found) == [(start / 16_000, min(start + LENGTH, n_samples) / 16_000) for start in starts]
    for window, start in zip(found, starts, strict=True):
        np.testing.assert_array_equal(window.log_mel, log_mel(samples[start : start + LENGTH], 16_000, WINDOWED))


@pytest.mark.parametrize("n_samples", [100, 40_000, 159_999, 160_000, 160_001, 200_000])
def test_where_shorter_audio_is_kept_every_frame_is_heard(tmp_path, n_samples):
    samples = noise(n_samples)
    found, _ = read(write(tmp_path, samples), SPEECH)
    expected = [(0, n_samples)] if n_samples <= 160_000 else [(0, 160_000), (n_samples - 160_000, n_samples)]
    assert spans(found) == [(start / 16_000, end / 16_000) for start, end in expected]
    for window, (start, end) in zip(found, expected, strict=True):
        assert window.log_mel.shape == (SPEECH.n_mels, 1 + (end - start) // SPEECH.hop_length)
        np.testing.assert_array_equal(window.log_mel, log_mel(samples[start:end], 16_000, SPEECH))


@pytest.mark.parametrize("hop_secs", [3.0, 1.0, 0.1])
def test_other_hops(tmp_path, hop_secs):
    samples = noise(100_000)
    front_end = WINDOWED.replace(window_hop_secs=hop_secs)
    hop = round(hop_secs * 16_000)
    starts = [*range(0, len(samples) - LENGTH, hop), len(samples) - LENGTH]
    found, _ = read(write(tmp_path, samples), front_end)
    assert spans(found) == [(start / 16_000, (start + LENGTH) / 16_000) for start in starts]
    for window, start in zip(found, starts, strict=True):
        np.testing.assert_array_equal(window.log_mel, log_mel(samples[start : start + LENGTH], 16_000, WINDOWED))


@pytest.mark.parametrize("rate_hz", [8_000, 22_050, 44_100, 48_000])
def test_streamed_windows_are_slices_of_the_resampled_file(tmp_path, rate_hz):
    samples = noise(round(10.3 * rate_hz))
    whole = resample(samples, rate_hz, 16_000)
    found, reading = read(write(tmp_path, samples, rate_hz))
    assert [window.start_secs for window in found[:-1]] == [0.0, 1.5, 3.0, 4.5, 6.0]
    assert found[-1].end_secs == reading.duration_secs == 10.3
    assert found[-1].start_secs == pytest.approx(7.3, abs=2 / 16_000)
    for window in found:
        start = round(window.start_secs * 16_000)
        expected = log_mel(whole[start : start + LENGTH], 16_000, WINDOWED)
        np.testing.assert_allclose(window.log_mel, expected, rtol=0, atol=0.01)


@pytest.mark.parametrize("front_end", PRESETS)
@pytest.mark.parametrize(("start_secs", "end_secs"), [(0.0, 1.0), (1.25, 2.5), (7.5, 12.0), (2.0, None), (11.0, 99.0)])
def test_a_part_is_read_alone(tmp_path, front_end, start_secs, end_secs):
    samples = noise(12 * 16_000)
    end = min(round((end_secs or 12) * 16_000), len(samples))
    alone = samples[round(start_secs * 16_000) : end]
    found, reading = read(write(tmp_path, samples), front_end, start_secs, end_secs)
    expected, _ = read(write(tmp_path, alone, name="alone.wav"), front_end)
    assert reading.duration_secs == len(alone) / 16_000
    assert found[0].start_secs == start_secs
    assert found[-1].end_secs == pytest.approx(end / 16_000)
    for window, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(window.log_mel, other.log_mel)


@pytest.mark.parametrize("front_end", PRESETS)
def test_damage_outside_a_part_does_not_matter(tmp_path, front_end):
    samples = noise(200_000)
    samples[[10, 199_990]] = np.nan
    found, _ = read(write(tmp_path, samples), front_end, 1.0, 2.0)
    assert np.isfinite(found[0].log_mel).all()


@pytest.mark.parametrize("front_end", PRESETS)
@pytest.mark.parametrize("start_secs", [1.0, 1.5, 1e9])
def test_a_part_behind_the_end_is_refused(tmp_path, front_end, start_secs):
    error = refusal(write_tone(tmp_path / "a.wav", secs=1.0), front_end, start_secs=start_secs)
    assert error.stage == "check"
    assert f"no samples from {start_secs:g} s on" in error.reason


@pytest.mark.parametrize("front_end", PRESETS)
def test_one_channel_of_a_call(tmp_path, front_end):
    caller, agent = noise(32_000), noise(32_000, level=0.02)[::-1]
    path = write(tmp_path, np.stack([caller, agent], axis=1))
    for channel, expected in [(0, caller), (1, agent), ("mean", (caller + agent) / 2)]:
        chosen = front_end.replace(channel=channel)
        found, _ = read(path, chosen)
        np.testing.assert_allclose(found[0].log_mel, log_mel(expected, 16_000, front_end), rtol=0, atol=1e-3)
    error = refusal(path, front_end.replace(channel=2))
    assert (error.stage, "no channel 2" in error.reason) == ("check", True)


def test_warnings_look_at_the_channel_that_is_heard(tmp_path):
    path = write(tmp_path, np.stack([noise(16_000), np.zeros(16_000, dtype=np.float32)], axis=1))
    assert "silence" in refusal(path, WINDOWED.replace(channel=1)).reason
    assert read(path)[1].warnings == []


def memory_peak(path):
    tracemalloc.start()
    count = sum(1 for _ in LogMelWindows(Recording("a", str(path)), WINDOWED))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak


@pytest.mark.parametrize("rate_hz", [16_000, 8_000])
def test_a_long_file_takes_no_more_memory_than_a_short_one(tmp_path, rate_hz):
    short = write_tone(tmp_path / "short.wav", secs=60, rate_hz=rate_hz)
    long = write_tone(tmp_path / "long.wav", secs=600, rate_hz=rate_hz)
    memory_peak(short)
    short_count, short_peak = memory_peak(short)
    long_count, long_peak = memory_peak(long)
    assert (short_count, long_count) == (39, 399)
    assert long_peak < 1.2 * short_peak
    assert long_peak < 10e6


def test_truncating_refuses_what_it_would_have_to_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "MAX_WHOLE_SECS", 5.0)
    path = write(tmp_path, noise(16_000 * 10))
    assert "start and end" in refusal(path, SEED).reason
    assert read(path, SEED, 2.0, 6.0)[1].duration_secs == 4.0
    assert read(path, WINDOWED)[1].duration_secs == 10.0


def stereo(tmp_path, left, right):
    return write(tmp_path, np.stack([left, right], axis=1).astype(np.float32))


@pytest.mark.parametrize("front_end", PRESETS)
def test_different_channels_are_warned_about_where_they_are_mixed(tmp_path, front_end):
    caller = noise(32_000)
    agent = np.random.default_rng(1).uniform(-0.1, 0.1, 32_000)
    for left, right, differ in [
        (caller, agent, True),
        (caller, -caller / 2, True),
        (caller, 0.3 * caller, False),
        (caller, 0.7 * caller + 0.5 * agent, False),
        (caller, np.zeros(32_000), False),
        (caller, 1e-4 * agent, False),
    ]:
        path = stereo(tmp_path, left, right)
        assert ("channels-differ" in read(path, front_end)[1].warnings) == differ
        assert read(path, front_end.replace(channel=0))[1].warnings == []


def test_channels_are_compared_within_the_part_only(tmp_path):
    caller = noise(32_000)
    path = stereo(tmp_path, caller, np.r_[caller[:16_000], -caller[16_000:]])
    assert read(path)[1].warnings == ["channels-differ"]
    assert read(path, start_secs=0.0, end_secs=1.0)[1].warnings == []


def test_channels_that_cancel_each_other_are_not_called_zeros(tmp_path):
    path = stereo(tmp_path, noise(16_000), -noise(16_000))
    assert "the mean of its channels is zero throughout; try --channel 0" in refusal(path, WINDOWED).reason
    assert read(path, WINDOWED.replace(channel=0))[1].warnings == []


def test_a_cut_recording_is_called_so_where_its_end_is_read(tmp_path):
    path = write_tone(tmp_path / "a.wav", secs=10.0)
    path.write_bytes(path.read_bytes()[:200_000])
    assert read(path)[1].warnings == ["cut"]
    assert read(path, SEED)[1].warnings == ["beginning-only", "cut"]
    assert read(path, start_secs=0.0, end_secs=5.0)[1].warnings == []
    assert read(path, start_secs=0.0, end_secs=9.0)[1].warnings == ["end-beyond", "cut"]
