import io
import os
import signal
import struct
import tracemalloc
from contextlib import suppress

import av
import numpy as np
import pytest
import soundfile

from ser_batch.audio import ffmpeg
from ser_batch.audio.logmels import log_mel, resample
from ser_batch.audio.waveforms import mono_blocks, open_audio
from ser_batch.errors import AudioError
from ser_batch.runtime.engine import STALL_SECS
from tests.audio.encoding import FFMPEG_FORMATS, LOSSLESS, LOSSY, Format, encode, encode_sample
from tests.conftest import write_tone
from tests.frontends import TRUNCATED

SPOKEN = "03a01Wa.wav"

# How far each codec's loud bins may lie from the WAV's, as a median in dB; twice what was measured.
MEDIAN_DB = {
    "m4a-aac": 0.5,
    "aac": 0.5,
    "mp4-video": 0.5,
    "3gp-amr": 2.5,
    "amr": 2.5,
    "webm-opus": 0.8,
    "mka-opus": 0.8,
    "wma": 0.4,
    "ac3": 0.1,
    "mpegts-mp2": 0.1,
    "flv-mp3": 0.9,
}


def decode(path, start_secs=0.0):
    with open_audio(path, start_secs) as decoder:
        blocks = list(decoder.blocks)
        empty = np.zeros((0, decoder.channels), dtype=np.float32)
        return np.concatenate([empty, *blocks]), decoder.rate_hz


def refusal(path):
    with pytest.raises(AudioError) as caught:
        decode(path)
    assert "\n" not in caught.value.reason
    return caught.value


def wav_bytes(samples, rate_hz=16_000, subtype="PCM_16"):
    file = io.BytesIO()
    soundfile.write(file, samples, rate_hz, format="WAV", subtype=subtype)
    return file.getvalue()


def tone(n_samples=16_000, rate_hz=16_000):
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(n_samples) / rate_hz)).astype(np.float32)


def delay(heard, original, most=4000):
    """How many samples `heard` comes after `original`."""
    size = len(heard) + len(original) + most
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(original, size)), size)
    late, early = product[:most], product[-most:]
    return int(late.argmax()) if late.max() >= early.max() else int(early.argmax()) - most


def moved(samples, by):
    return samples[-by:] if by <= 0 else np.concatenate([np.zeros(by, dtype=np.float32), samples])


@pytest.mark.parametrize(
    ("container", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 1 / 100),
        ("WAV", "PCM_16", 1 / 30_000),
        ("WAV", "PCM_24", 1e-6),
        ("WAV", "PCM_32", 1e-7),
        ("WAV", "FLOAT", 0),
        ("WAV", "DOUBLE", 0),
        ("WAV", "ULAW", 0.03),
        ("WAVEX", "PCM_24", 1e-6),
        ("W64", "PCM_16", 1 / 30_000),
        ("RF64", "PCM_16", 1 / 30_000),
        ("AIFF", "PCM_S8", 1 / 100),
        ("AU", "PCM_16", 1 / 30_000),
        ("CAF", "PCM_16", 1 / 30_000),
        ("FLAC", "PCM_16", 1 / 30_000),
        ("FLAC", "PCM_24", 1e-6),
    ],
)
def test_what_libsndfile_reads_without_loss(tmp_path, container, subtype, tolerance):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16_000, format=container, subtype=subtype)
    samples, rate_hz = decode(path)
    assert rate_hz == 16_000
    assert samples.dtype == np.float32
    np.testing.assert_allclose(samples[:, 0], tone(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("container", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_what_libsndfile_reads_with_loss(tmp_path, emodb_sample, container, subtype):
    original, rate_hz = soundfile.read(emodb_sample / SPOKEN, dtype="float32")
    path = tmp_path / "a"
    soundfile.write(path, original, rate_hz, format=container, subtype=subtype)
    samples, decoded_hz = decode(path)
    assert_sounds_like(samples.mean(axis=1), decoded_hz, original, rate_hz, median_db=1.0)


@pytest.mark.parametrize("rate_hz", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 24])
def test_rates_and_channels(tmp_path, rate_hz, channels):
    path = write_tone(tmp_path / "a.wav", secs=0.2, rate_hz=rate_hz, channels=channels)
    samples, found_hz = decode(path)
    assert found_hz == rate_hz
    assert samples.shape == (round(0.2 * rate_hz), channels)


def test_mono_is_the_mean_of_the_channels_or_one_of_them(tmp_path):
    channels = np.linspace(0.01, 0.24, 24, dtype=np.float32) * np.ones((500, 1), dtype=np.float32)
    soundfile.write(tmp_path / "a.wav", channels, 16_000, subtype="FLOAT")
    for channel, expected in [("mean", channels.mean()), (0, 0.01), (23, 0.24)]:
        with open_audio(tmp_path / "a.wav") as decoder:
            mono = np.concatenate(list(mono_blocks(decoder, channel)))
        np.testing.assert_allclose(mono, np.full(500, expected), rtol=1e-5)


def test_a_channel_that_is_not_there_is_refused(tmp_path):
    path = write_tone(tmp_path / "a.wav", channels=2)
    with open_audio(path) as decoder, pytest.raises(AudioError, match=r"no channel 2.*has 2") as caught:
        list(mono_blocks(decoder, 2))
    assert caught.value.stage == "check"


@pytest.fixture(scope="module")
def encoded(tmp_path_factory, emodb_sample):
    folder = tmp_path_factory.mktemp("encoded")
    return {name: encode_sample(folder, name, emodb_sample / SPOKEN) for name in FFMPEG_FORMATS}


@pytest.fixture(scope="module")
def original(emodb_sample):
    return soundfile.read(emodb_sample / SPOKEN, dtype="float32")[0]


def assert_sounds_like(samples, rate_hz, original, original_hz, median_db):
    heard = resample(np.ascontiguousarray(samples), rate_hz, original_hz)
    aligned = moved(heard, -delay(heard, original))
    expected = log_mel(original, original_hz, TRUNCATED)
    loud = expected > expected.max() - 40
    difference = np.abs(log_mel(aligned, original_hz, TRUNCATED) - expected)[loud]
    assert np.median(difference) <= median_db


@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_formats_give_the_samples(encoded, original, name):
    samples, rate_hz = decode(encoded[name])
    assert rate_hz == 16_000
    np.testing.assert_allclose(samples[:, 0], original, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_formats_sound_alike(encoded, original, name):
    samples, rate_hz = decode(encoded[name])
    assert_sounds_like(samples.mean(axis=1), rate_hz, original, 16_000, MEDIAN_DB[name])


@pytest.mark.parametrize("name", FFMPEG_FORMATS)
@pytest.mark.parametrize("wrong", ["wav", "raw", "txt", "mp3"])
def test_content_decides_and_not_the_extension(encoded, tmp_path, name, wrong):
    renamed = tmp_path / f"a.{wrong}"
    renamed.write_bytes(encoded[name].read_bytes())
    np.testing.assert_array_equal(decode(renamed)[0], decode(encoded[name])[0])


@pytest.mark.parametrize("extension", ["raw", "m4a", "", "mp3"])
def test_a_wav_of_any_name(tmp_path, extension):
    path = tmp_path / f"a.{extension}"
    path.write_bytes(wav_bytes(tone()))
    assert len(decode(path)[0]) == 16_000


@pytest.mark.parametrize("name", [b"caf\xe9 \n,\"'.wav", b"-.wav", b"%d.wav", b"http:x.wav", "ü.wav".encode()])
def test_names_are_only_names(encoded, tmp_path, name):
    path = os.path.join(tmp_path, os.fsdecode(name))
    for content in (wav_bytes(tone()), encoded["m4a-aac"].read_bytes()):
        with open(path, "wb") as file:
            file.write(content)
        assert len(decode(path)[0]) > 10_000


@pytest.mark.parametrize("name", ["wav", "m4a-alac", "m4a-aac", "mka-flac", "webm-opus"])
def test_decoding_from_a_point_on(encoded, emodb_sample, name):
    path = emodb_sample / SPOKEN if name == "wav" else encoded[name]
    whole, rate_hz = decode(path)
    part, _ = decode(path, start_secs=0.75)
    np.testing.assert_array_equal(part, whole[round(0.75 * rate_hz) :])


@pytest.mark.parametrize("name", ["wav", "m4a-alac"])
def test_nothing_lies_behind_the_end(encoded, emodb_sample, name):
    path = emodb_sample / SPOKEN if name == "wav" else encoded[name]
    assert len(decode(path, start_secs=1e6)[0]) == 0


def test_blocks_are_small(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros((300_000, 8), dtype=np.float32), 16_000)
    with open_audio(tmp_path / "a.wav") as decoder:
        assert max(block.size for block in decoder.blocks) <= 1 << 16


def test_an_empty_file(tmp_path):
    (tmp_path / "a.wav").touch()
    error = refusal(tmp_path / "a.wav")
    assert error.stage == "decode"
    assert "empty" in error.reason


@pytest.mark.parametrize("content", [b"x", b"hello, this is no audio\n" * 100, b"\0" * 5000, b"RIFF", b"\xff" * 5000])
def test_what_is_no_audio(tmp_path, content):
    (tmp_path / "a.wav").write_bytes(content)
    assert refusal(tmp_path / "a.wav").stage == "decode"


def test_a_video_without_sound(tmp_path):
    import av

    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        picture = container.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")
        container.mux([*picture.encode(frame), *picture.encode(None)])
    assert "no audio track" in refusal(tmp_path / "a.mp4").reason


def is_cut(path, start_secs=0.0):
    with open_audio(path, start_secs) as decoder:
        for _ in decoder.blocks:
            pass
    return decoder.is_cut


def test_a_truncated_wav_gives_what_is_there_and_is_called_cut(tmp_path):
    whole = wav_bytes(tone())
    (tmp_path / "a.wav").write_bytes(whole[:20_044])
    np.testing.assert_allclose(decode(tmp_path / "a.wav")[0][:, 0], tone()[:10_000], atol=1e-4)
    assert is_cut(tmp_path / "a.wav")
    (tmp_path / "whole.wav").write_bytes(whole)
    assert not is_cut(tmp_path / "whole.wav")


def test_a_part_before_the_cut_is_whole(tmp_path):
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone(64_000))[:100_044])
    with open_audio(tmp_path / "a.wav") as decoder:
        next(decoder.blocks)
    assert not decoder.is_cut


@pytest.mark.parametrize("chunk", [b"LIST", b"id3 ", b"_PMX"])
def test_other_chunks_behind_the_samples_are_no_lost_audio(tmp_path, chunk):
    more = chunk + struct.pack("<I", 30_000) + bytes(30_000)
    (tmp_path / "a.wav").write_bytes(wav_bytes(tone()) + more)
    assert not is_cut(tmp_path / "a.wav")


def test_a_wav_of_a_recorder_that_was_stopped(tmp_path):
    """It claims no samples: its length was to be filled in at the end."""
    (tmp_path / "a.wav").write_bytes(patched(wav_bytes(tone()), n_bytes=0))
    np.testing.assert_allclose(decode(tmp_path / "a.wav")[0][:, 0], tone(), atol=1e-4)
    assert not is_cut(tmp_path / "a.wav")


@pytest.fixture(scope="module")
def long_files(tmp_path_factory, emodb_sample):
    """Two minutes of speech in formats that people cut segments from, and their samples at 16 kHz."""
    folder = tmp_path_factory.mktemp("long")
    speech = [soundfile.read(path, dtype="float32")[0] for path in sorted(emodb_sample.glob("*.wav"))]
    samples = np.resize(np.concatenate(speech), 120 * 16_000)
    # Bands of noise are other noise wherever decoding begins.
    without_noise = {"aac_pns": "0"}
    vbr = {"global_quality": "472", "flags": "+qscale"}
    written = {
        "m4a": Format("m4a", "aac", bit_rate=64_000, options=without_noise),
        "mp3": Format("mp3", "libmp3lame", bit_rate=64_000),
        "mp3-vbr-piped": Format("mp3", "libmp3lame", options=vbr, container="mp3", piped=True),
        "opus": Format("opus", "libopus", 48_000, 32_000),
        "flac": Format("flac", "flac", sample_format="s16"),
        "flac-piped": Format("flac", "flac", sample_format="s16", container="flac", piped=True),
        "m4a-fragmented": Format(
            "mp4", "aac", options=without_noise, container_options={"movflags": "frag_every_frame+empty_moov"}
        ),
    }
    files = {name: encode(folder / f"{name}.{one.extension}", samples, 16_000, one) for name, one in written.items()}
    for name in ("wav", "ogg"):
        files[name] = folder / f"a.{name}"
        with soundfile.SoundFile(files[name], "w", 16_000, 1) as file:
            for begin in range(0, len(samples), 16_000):  # libsndfile crashes on minutes of Vorbis at once
                file.write(samples[begin : begin + 16_000])
    for name in ("mp3", "mp3-vbr-piped", "opus", "flac", "flac-piped", "ogg"):
        files[f"{name} twice"] = folder / f"{name}-twice.{files[name].suffix[1:]}"
        files[f"{name} twice"].write_bytes(2 * files[name].read_bytes())
    return files


LONG = ("m4a", "mp3", "mp3-vbr-piped", "opus", "flac", "flac-piped", "m4a-fragmented", "wav", "ogg")


@pytest.mark.parametrize("name", LONG)
def test_files_are_decoded_to_their_end(long_files, name):
    samples, rate_hz = decode(long_files[name])
    assert len(samples) / rate_hz == pytest.approx(120, abs=0.15)
    assert not is_cut(long_files[name])


@pytest.mark.parametrize("name", ["mp3", "mp3-vbr-piped", "opus", "flac", "flac-piped", "ogg"])
def test_joined_files_are_decoded_to_their_end(long_files, name):
    samples, rate_hz = decode(long_files[f"{name} twice"])
    assert len(samples) / rate_hz == pytest.approx(240, abs=0.3)
    assert not is_cut(long_files[f"{name} twice"])


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("start_secs", [7.123, 60.0, 117.77])
def test_late_parts_are_those_of_the_whole(long_files, name, start_secs):
    whole, rate_hz = decode(long_files[name])
    part, _ = decode(long_files[name], start_secs)
    expected = whole[round(start_secs * rate_hz) :]
    assert part.shape == expected.shape
    np.testing.assert_allclose(part, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["mp3 twice", "opus twice", "flac twice", "ogg twice"])
@pytest.mark.parametrize("start_secs", [60.0, 190.5])
def test_late_parts_of_joined_files(long_files, name, start_secs):
    whole, rate_hz = decode(long_files[name])
    expected = whole[round(start_secs * rate_hz) :]
    np.testing.assert_allclose(decode(long_files[name], start_secs)[0], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["m4a", "mp3", "flac", "opus"])
def test_a_late_part_costs_no_decoding_of_what_lies_before(long_files, name, monkeypatch):
    decoded = []
    decode_packet = ffmpeg._Decoding._decoded
    monkeypatch.setattr(
        ffmpeg._Decoding, "_decoded", lambda self, packet: decoded.append(packet) or decode_packet(self, packet)
    )
    decode(long_files[name])
    whole = len(decoded)
    decoded.clear()
    decode(long_files[name], 117.0)
    assert len(decoded) < whole / 20


def test_any_progress_renews_the_alarm_of_a_worker(long_files, monkeypatch):
    signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        decode(long_files["mp3"], 100.0)
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= STALL_SECS
        signal.setitimer(signal.ITIMER_REAL, 0)
        decode(long_files["mp3"], 100.0)
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def test_an_m4a_without_its_end_has_no_index(long_files, tmp_path):
    content = long_files["m4a"].read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    assert "no index (moov)" in refusal(tmp_path / "a.m4a").reason


def patched(content, **fields):
    """A WAV whose header claims something else."""
    places = {"channels": (22, "<H"), "rate_hz": (24, "<I"), "n_bytes": (40, "<I")}
    patched = bytearray(content)
    for name, value in fields.items():
        offset, form = places[name]
        struct.pack_into(form, patched, offset, value)
    return bytes(patched)


@pytest.mark.parametrize("rate_hz", [0, 1, 999, 1_000_000_000, 4_294_967_295])
def test_a_rate_that_no_recording_has(tmp_path, rate_hz):
    (tmp_path / "a.wav").write_bytes(patched(wav_bytes(tone()), rate_hz=rate_hz))
    assert refusal(tmp_path / "a.wav").stage == "decode"


@pytest.mark.parametrize("channels", [0, 65, 1000, 65_535])
def test_channels_that_no_recording_has(tmp_path, channels):
    (tmp_path / "a.wav").write_bytes(patched(wav_bytes(tone()), channels=channels))
    assert refusal(tmp_path / "a.wav").stage == "decode"


@pytest.mark.parametrize("n_bytes", [2**31 - 2, 2**32 - 2])
def test_hours_that_are_not_there_cost_no_memory(tmp_path, n_bytes):
    (tmp_path / "a.wav").write_bytes(patched(wav_bytes(tone(1000)), n_bytes=n_bytes))
    tracemalloc.start()
    samples, _ = decode(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(samples) == 1000
    assert peak < 10e6


def test_a_missing_file_and_a_folder(tmp_path):
    assert refusal(tmp_path / "a.wav").reason == "cannot be read: No such file or directory"
    assert refusal(tmp_path).reason == "cannot be read: Is a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_an_unreadable_file(tmp_path):
    path = write_tone(tmp_path / "a.wav")
    path.chmod(0)
    assert refusal(path).stage == "read"


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="needs a file whose first byte cannot be read")
def test_an_input_error(tmp_path):
    error = refusal("/proc/self/mem")
    assert error.stage == "read"
    assert error.reason == "cannot be read: Input/output error"


def test_a_name_that_no_file_can_have(tmp_path):
    assert refusal(f"{tmp_path}/a\0.wav").stage == "read"
    assert refusal(f"{tmp_path}/{'a' * 300}.wav").stage == "read"


def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "a.wav")
    refusal(tmp_path / "a.wav")


@pytest.mark.parametrize(
    ("name", "script"),
    [
        ("a.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n"),
        ("a.m3u", "#EXTM3U\n{path}\n"),
        ("a.txt", "ffconcat version 1.0\nfile '{path}'\n"),
        ("a.wav", "ffconcat version 1.0\nfile '{path}'\n"),
        ("a.sdp", "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n"),
        ("a.mpd", '<?xml version="1.0"?><MPD><Period><BaseURL>{path}</BaseURL></Period></MPD>'),
        ("a.asx", '<asx version="3.0"><entry><ref href="{path}"/></entry></asx>'),
    ],
)
@pytest.mark.parametrize("other", ["other.wav", "other.ts", "{folder}/other.ts", "file:{folder}/other.ts"])
def test_scripts_that_name_other_files_are_refused(encoded, tmp_path, monkeypatch, name, script, other):
    write_tone(tmp_path / "other.wav")
    (tmp_path / "other.ts").write_bytes(encoded["mpegts-mp2"].read_bytes())
    (tmp_path / name).write_text(script.format(path=other.format(folder=tmp_path)))
    monkeypatch.chdir(tmp_path)
    assert refusal(tmp_path / name).stage == "decode"


@pytest.mark.parametrize("name", FFMPEG_FORMATS)
def test_truncated_files_are_refused_or_give_what_is_there(encoded, tmp_path, name):
    whole = encoded[name].read_bytes()
    longest = len(decode(encoded[name])[0])
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        path = tmp_path / f"a{share}"
        path.write_bytes(whole[: int(share * len(whole))])
        with suppress(AudioError):
            assert len(decode(path)[0]) <= longest


@pytest.mark.parametrize("name", ["wav", *FFMPEG_FORMATS])
def test_flipped_bits_are_refused_or_decoded(encoded, emodb_sample, tmp_path, name):
    whole = (emodb_sample / SPOKEN if name == "wav" else encoded[name]).read_bytes()
    rng = np.random.default_rng(7)
    for number in range(12):
        damaged = bytearray(whole)
        within = 200 if number % 2 else len(whole)
        for place in rng.integers(0, within, 4):
            damaged[place] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"a{number}"
        path.write_bytes(damaged)
        with suppress(AudioError):
            decode(path)


def test_a_track_in_an_unknown_codec(encoded, tmp_path):
    damaged = encoded["mov-pcm"].read_bytes().replace(b"sowt", b"zzzz")
    (tmp_path / "a.mov").write_bytes(damaged)
    assert "codec" in refusal(tmp_path / "a.mov").reason


def test_many_channels_through_ffmpeg(tmp_path):
    path = tmp_path / "many.mov"
    ramp = np.arange(1, 17, dtype=np.float32)[:, None] / 32
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=16_000, layout="hexadecagonal")
        frame = av.AudioFrame.from_ndarray(
            (np.repeat(ramp, 4000, axis=1).T.reshape(1, -1) * 32_768).astype(np.int16), "s16", "hexadecagonal"
        )
        frame.sample_rate = 16_000
        container.mux([*stream.encode(frame), *stream.encode(None)])
    with open_audio(path) as decoder:
        block = np.concatenate(list(decoder.blocks))
    assert (decoder.rate_hz, decoder.channels, block.shape) == (16_000, 16, (4000, 16))
    np.testing.assert_allclose(block, np.broadcast_to(ramp.T, (4000, 16)), atol=1e-4)
