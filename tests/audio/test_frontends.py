import json

import pytest

from ser_batch.audio.frontends import PRESETS, SEED, SPEECH, FrontEnd, build_options, parse_channel, preset, preset_name
from ser_batch.errors import FrontEndError, UsageError


def test_shapes_of_the_presets():
    assert SEED.n_samples == 132_300
    assert SEED.shape == (128, 259)
    assert SPEECH.n_samples == 160_000
    assert SPEECH.shape == (SPEECH.n_mels, None)
    assert SPEECH.n_frames == 1 + 160_000 // SPEECH.hop_length


def test_the_seed_never_changes():
    assert SEED.to_json() == {
        "rate_hz": 44_100,
        "n_fft": 2048,
        "hop_length": 512,
        "n_mels": 128,
        "fmin_hz": 0.0,
        "fmax_hz": 22_050.0,
        "length_secs": 3.0,
        "shorter": "pad",
        "longer": "truncate",
        "window_hop_secs": None,
        "trim_top_db": 60.0,
        "wiener": True,
        "db_reference": "max",
        "db_floor": 1e-10,
        "db_range": 80.0,
        "channel": "mean",
    }


@pytest.mark.parametrize("name", PRESETS)
def test_json_brings_a_front_end_back(name):
    front_end = preset(name)
    again = FrontEnd.from_json(json.loads(json.dumps(front_end.to_json())))
    assert again == front_end
    assert again.fingerprint == front_end.fingerprint


def test_every_value_is_in_the_fingerprint():
    others = {"shorter": "pad", "longer": "truncate", "wiener": True, "db_reference": "max"}
    fingerprints = {SPEECH.fingerprint}
    for name in FrontEnd.model_fields:
        fingerprints.add(SPEECH.replace(**{name: others.get(name, 1234)}).fingerprint)
    assert len(fingerprints) == 1 + len(FrontEnd.model_fields)


def test_json_of_another_version_is_refused():
    missing = {name: value for name, value in SEED.to_json().items() if name != "n_mels"}
    with pytest.raises(FrontEndError, match=r"front end: n_mels: is missing; was it written by another version\?"):
        FrontEnd.from_json(missing)
    with pytest.raises(FrontEndError, match="dither: no such value; there are rate_hz, n_fft"):
        FrontEnd.from_json(SEED.to_json() | {"dither": 1})


def test_an_unknown_preset_is_refused_and_the_known_ones_named():
    with pytest.raises(UsageError, match=r"loud.*seed.*speech"):
        preset("loud")


def test_preset_names_do_not_depend_on_the_channel():
    assert preset_name(preset("speech", channel=1)) == "speech"
    assert preset_name(SEED.replace(n_mels=64)) == "custom"


def test_the_options_that_choose_a_front_end():
    assert build_options(SEED) == "--front-end seed"
    assert build_options(preset("speech", channel=1)) == "--front-end speech --channel 1"
    custom = SEED.replace(n_mels=64)
    assert build_options(custom) == f"custom, {custom.fingerprint[:12]}"


def test_channels():
    assert parse_channel("mean") == "mean"
    assert parse_channel("0") == 0
    assert parse_channel("12") == 12


@pytest.mark.parametrize("text", ["-1", "left", "", "1.0", "64", "9" * 20, "9" * 5000])
def test_odd_channels_are_refused(text):
    with pytest.raises(UsageError, match="channel"):
        parse_channel(text)
