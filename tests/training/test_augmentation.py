"""Augmentation of spectrograms whose cells say where they come from."""

from collections.abc import Callable
from typing import Any

import librosa
import numpy as np
import pytest

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.training.augmentation import at_tempo, augment, mixup, warped
from ser_batch.training.recipes import Augmentation
from tests.frontends import TRUNCATED, WINDOWED

FRONT_END = WINDOWED.replace(shorter="keep")
N_MELS = FRONT_END.n_mels
SEEDS = range(150)

FRAMES = np.broadcast_to(np.arange(100, dtype=np.float32), (N_MELS, 100))  # each cell is its frame's number
BANDS = np.broadcast_to(np.arange(N_MELS, dtype=np.float32)[:, None], (N_MELS, 100))


def bands_of(hz: float) -> float:
    """The fractional band in which a frequency lies, by librosa."""
    centres = librosa.mel_frequencies(N_MELS + 2, fmin=FRONT_END.fmin_hz, fmax=FRONT_END.fmax_hz)[1:-1]
    return float(np.interp(librosa.hz_to_mel(hz), librosa.hz_to_mel(centres), np.arange(N_MELS)))


def vary(options: Augmentation, front_end=FRONT_END) -> Callable[[np.ndarray, int], np.ndarray]:
    function: Any = augment(options, front_end)
    return lambda log_mel, seed: function(log_mel, np.array([seed, 7], np.int32)).numpy()


def warp(log_mel: np.ndarray, factor: float) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(warped(tf.constant(log_mel), factor, FRONT_END))


def tempo(log_mel: np.ndarray, factor: float) -> np.ndarray:
    import tensorflow as tf

    return np.asarray(at_tempo(tf.constant(log_mel), tf.constant(factor, tf.float32)))


# --- one example


@pytest.mark.parametrize("factor", [0.84, 0.93, 1.0, 1.07, 1.16])
@pytest.mark.parametrize("peak_hz", [200.0, 700.0, 1500.0, 3000.0])
def test_a_warp_moves_a_peak_to_where_its_frequency_goes(factor: float, peak_hz: float) -> None:
    bands = np.arange(N_MELS)[:, None]
    log_mel = np.repeat(-np.square(bands - bands_of(peak_hz)), 3, axis=1).astype(np.float32)
    augmented = warp(log_mel, factor)
    assert augmented.shape == log_mel.shape
    assert (augmented[:, 0] == augmented[:, 2]).all()
    assert augmented[:, 0].argmax() == pytest.approx(bands_of(peak_hz / factor), abs=0.75)


@pytest.mark.parametrize("factor", [0.84, 1.16])
def test_a_warp_keeps_the_top_edge_and_the_order_of_bands(factor: float) -> None:
    sources = warp(BANDS, factor)[:, 0]
    assert (np.diff(sources) >= 0).all()
    assert sources[-1] == pytest.approx(N_MELS - 1, abs=0.3)
    middle = sources[20] - 20
    assert middle > 1 if factor > 1 else middle < -1


def test_no_warp_is_no_change() -> None:
    log_mel = np.random.default_rng(0).normal(-30, 10, (N_MELS, 5)).astype(np.float32)
    np.testing.assert_allclose(warp(log_mel, 1.0), log_mel, atol=0.02)


def test_random_warps_stay_in_range_and_spare_some() -> None:
    function = vary(Augmentation(warp=0.1, warp_share=0.5))
    lowest, highest = (warp(BANDS, factor)[20, 0] for factor in (0.9, 1.1))
    sources = np.array([function(BANDS, seed)[20, 0] for seed in SEEDS])
    assert lowest - 1e-3 <= sources.min() < 20 - 0.5
    assert 20 + 0.5 < sources.max() <= highest + 1e-3
    assert 0.35 < np.mean(np.abs(sources - 20) < 1e-3) < 0.65


@pytest.mark.parametrize("factor", [0.7, 0.9, 1.0, 1.25, 2.0])
def test_tempo_shortens_and_keeps_the_order(factor: float) -> None:
    augmented = tempo(FRAMES, factor)
    assert augmented.shape == (N_MELS, round(100 / factor))
    assert (np.diff(augmented[0]) > 0).all()
    np.testing.assert_allclose(augmented[0, [0, -1]], [0, 99], atol=1e-4)
    np.testing.assert_allclose(augmented[0], np.linspace(0, 99, augmented.shape[1]), atol=1e-3)
    assert tempo(FRAMES[:, :1], factor).shape == (N_MELS, 1)


def test_random_tempos_stay_in_range() -> None:
    function = vary(Augmentation(tempo=0.15))
    lengths = [function(FRAMES, seed).shape[1] for seed in SEEDS]
    assert round(100 * np.exp(-0.15)) <= min(lengths) < 90
    assert 110 < max(lengths) <= round(100 * np.exp(0.15))


def test_a_crop_is_a_stretch_of_an_allowed_length_from_anywhere() -> None:
    function = vary(Augmentation(crop_min_frames=20, crop_max_frames=25))
    crops = [function(FRAMES, seed) for seed in SEEDS]
    for crop in crops:
        assert (crop == crop[0]).all()
        assert (np.diff(crop[0]) == 1).all()
    assert {crop.shape[1] for crop in crops} == set(range(20, 26))
    assert min(crop[0, 0] for crop in crops) < 5
    assert max(crop[0, -1] for crop in crops) > 94


def test_short_audio_is_repeated_to_the_length_of_a_crop() -> None:
    function = vary(Augmentation(crop_min_frames=20, crop_max_frames=25))
    for n_frames in (1, 7, 19):
        for seed in range(20):
            crop = function(FRAMES[:, :n_frames], seed)[0]
            assert 20 <= len(crop) <= 25
            np.testing.assert_array_equal(crop, np.arange(len(crop)) % n_frames)


@pytest.mark.parametrize(
    ("options", "axis", "most"),
    [(Augmentation(time_mask=0.15), 1, 15), (Augmentation(mel_mask_bands=8), 0, 8)],
    ids=["time", "mel"],
)
def test_a_mask_hides_one_stretch_no_wider_than_allowed(options: Augmentation, axis: int, most: int) -> None:
    function = vary(options)
    log_mel = np.random.default_rng(0).normal(-30, 10, (N_MELS, 100)).astype(np.float32)
    widths, seen = [], np.zeros(log_mel.shape[axis], dtype=bool)
    for seed in SEEDS:
        augmented = function(log_mel, seed)
        hidden = (augmented != log_mel).all(axis=1 - axis)
        assert (augmented == log_mel).all(axis=1 - axis)[~hidden].all()
        np.testing.assert_allclose(np.compress(hidden, augmented, axis), log_mel.mean(), atol=1e-3)
        places = np.flatnonzero(hidden)
        assert (np.diff(places) == 1).all()
        widths.append(len(places))
        seen |= hidden
    assert max(widths) <= most
    assert max(widths) >= most - 2
    assert min(widths) <= 1
    assert seen.mean() > 0.95


def test_gain_moves_all_by_no_more_than_it_may() -> None:
    function = vary(Augmentation(gain_db=6.0))
    gains = []
    for seed in SEEDS:
        moved = function(BANDS, seed) - BANDS
        assert np.ptp(moved) < 1e-4
        gains.append(moved[0, 0])
    assert -6 <= min(gains) < -4
    assert 4 < max(gains) <= 6


FULL = Augmentation(
    crop_min_frames=20,
    crop_max_frames=90,
    warp=0.16,
    tempo=0.15,
    time_mask=0.15,
    mel_mask_bands=8,
    gain_db=3.0,
)


def test_a_seed_is_a_variation_and_another_seed_another() -> None:
    function, again = vary(FULL), vary(FULL)
    for seed in range(5):
        one = function(FRAMES + BANDS, seed)
        np.testing.assert_array_equal(again(FRAMES + BANDS, seed), one)
        other = function(FRAMES + BANDS, seed + 5)
        assert one.shape != other.shape or np.abs(one - other).max() > 0.1


def test_examples_of_one_length_keep_it() -> None:
    log_mel = np.random.default_rng(0).normal(-30, 10, TRUNCATED.shape).astype(np.float32)
    function = vary(FULL, TRUNCATED)
    for seed in range(10):
        augmented = function(log_mel, seed)
        assert augmented.shape == TRUNCATED.shape
        assert (augmented != log_mel).any()


def test_no_options_are_no_augmentation() -> None:
    assert augment(Augmentation(), FRONT_END) is None
    assert augment(Augmentation(mixup=0.3), FRONT_END) is None
    assert augment(Augmentation(tempo=0.1, crop_max_frames=50), TRUNCATED) is None
    assert mixup(FULL) is None


# --- batches


LABELS = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 1]]


def mix(log_mels: np.ndarray, seed: int, alpha: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    function: Any = mixup(Augmentation(mixup=alpha))
    both, labels = function(log_mels, LABELS, np.array([seed, -3], np.int32))
    return both.numpy(), labels.numpy()


def test_mixup_mixes_examples_and_labels_in_one_proportion() -> None:
    log_mels = np.random.default_rng(0).normal(-30, 10, (5, N_MELS, 40)).astype(np.float32)
    shares = []
    for seed in range(60):
        both, labels = mix(log_mels, seed)
        share = labels[0, 0]
        np.testing.assert_allclose(labels, share * LABELS + (1 - share) * LABELS[::-1], atol=1e-6)
        np.testing.assert_allclose(both, share * log_mels + (1 - share) * log_mels[::-1], atol=1e-3)
        np.testing.assert_allclose(both[2], log_mels[2], atol=1e-4)  # opposite itself
        shares.append(share)
    assert 0.5 <= min(shares) < 0.6
    assert 0.95 < max(shares) <= 1
    np.testing.assert_array_equal(mix(log_mels, 3)[0], mix(log_mels, 3)[0])


def test_after_the_end_of_one_the_other_goes_on_alone() -> None:
    log_mels = np.full((5, N_MELS, 40), PADDING_DB, np.float32)
    lengths = [40, 10, 20, 30, 5]
    for row, length in zip(log_mels, lengths, strict=True):
        row[:, :length] = -30 - length
    both, labels = mix(log_mels, 1)
    share = labels[0, 0]
    assert 0.5 < share < 1
    for row, length, other in zip(both, lengths, lengths[::-1], strict=True):
        shorter, longer = sorted((length, other))
        np.testing.assert_allclose(row[:, :shorter], share * (-30 - length) + (1 - share) * (-30 - other), atol=1e-3)
        assert (row[:, shorter:longer] == -30 - longer).all()
        assert (row[:, longer:] == PADDING_DB).all()
