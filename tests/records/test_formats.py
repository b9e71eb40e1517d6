"""One recording in every format, built into one record folder by the command line."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import SEED
from ser_batch.cli.app import main
from ser_batch.records.examples import parse
from ser_batch.records.folder import open_records
from ser_batch.records.tfrecords import read_records
from tests.audio.encoding import FFMPEG_FORMATS, LOSSLESS, encode_sample
from tests.manifests import error_rows

SPOKEN = "03a01Wa.wav"
LIBSNDFILE_LOSSLESS = {"wav": "WAV", "flac": "FLAC", "aiff": "AIFF", "au": "AU", "caf": "CAF", "w64": "W64"}
LIBSNDFILE_LOSSY = {"ogg": "OGG", "mp3": "MP3"}
EXTENSIONS = {"ts": "mpg"}  # .ts is more often a script than a recording

# Codecs come late, and what they leave of silence moves where the trim begins.
MOST_FRAMES_LATE = 12

# How far each codec's loud bins may lie from the WAV's, as a median in dB; twice what was measured, where other
# recordings lie 10 dB and more away.
MEDIAN_DB = {"3gp-amr": 1.8, "amr": 4.3, "aac": 3.4, "ac3": 3.2, "mpegts-mp2": 2.9, "wma": 1.7, "flv-mp3": 1.1}
MOST_MEDIAN_DB = 0.7


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> Path:
    """Folders ``lossless`` and ``lossy``, each file named for its format."""
    folder = tmp_path_factory.mktemp("formats")
    samples, rate_hz = soundfile.read(emodb_sample / SPOKEN)
    for kind, formats in {"lossless": LIBSNDFILE_LOSSLESS, "lossy": LIBSNDFILE_LOSSY}.items():
        (folder / kind).mkdir()
        for extension, container in formats.items():
            soundfile.write(folder / kind / f"{extension}.{extension}", samples, rate_hz, format=container)
    for name, written in FFMPEG_FORMATS.items():
        encoded = encode_sample(folder, name, emodb_sample / SPOKEN)
        kind = "lossless" if name in LOSSLESS else "lossy"
        encoded.rename(folder / kind / f"{name}.{EXTENSIONS.get(written.extension, written.extension)}")
    return folder


def build(source: Path, out: Path) -> int:
    options = ("--front-end", "seed", "--labels", "folder", "--split", "none", "-j", "2")
    return main(["build-records", str(source), "-o", str(out), *options])


def log_mels(folder: Path) -> dict[str, Float32s]:
    """Each example's, by its file; no file has two."""
    found: dict[str, Float32s] = {}
    for shard in open_records(folder).shards():
        with open(folder / shard.name, "rb") as file:
            for example in (parse(serialized, SEED.shape) for serialized in read_records(file)):
                assert example.file not in found
                found[example.file] = example.log_mel
    return found


def median_db(heard: Float32s, original: Float32s) -> float:
    """Over the original's loud bins, at the shift in frames where it is smallest."""
    differences = []
    for late in range(-MOST_FRAMES_LATE, MOST_FRAMES_LATE + 1):
        moved = np.roll(heard, -late, axis=1)
        differences.append(np.median(np.abs(moved - original)[original > -30]))
    return float(min(differences))


def test_every_format_is_an_example_like_the_wav(source: Path, tmp_path: Path, capfd) -> None:
    assert build(source, tmp_path / "out") == 0
    said = capfd.readouterr().err.splitlines()
    n_formats = len(LIBSNDFILE_LOSSLESS) + len(LIBSNDFILE_LOSSY) + len(FFMPEG_FORMATS)
    assert n_formats == 25
    assert said[0] == "labels from folders: lossless, lossy"
    assert re.fullmatch(
        rf"{tmp_path}/out: 25 examples \(train 25\) in 1 shard, 3\.3 MB, 0 errors, in \d+\.\d s", said[-1]
    )
    assert not [line for line in said if line.startswith("error")]
    found = log_mels(tmp_path / "out")
    original = found["lossless/wav.wav"]
    assert len(found) == n_formats
    for file, log_mel in found.items():
        if file.startswith("lossless"):
            np.testing.assert_allclose(log_mel, original, rtol=0, atol=0.01, err_msg=file)
        else:
            assert median_db(log_mel, original) < MEDIAN_DB.get(Path(file).stem, MOST_MEDIAN_DB), file


def test_wrong_extensions_change_nothing(source: Path, tmp_path: Path) -> None:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for kind in ("lossless", "lossy"):
        (tmp_path / "renamed" / kind).mkdir(parents=True)
    wrong = {}
    for path, other in zip(files, files[1:] + files[:1], strict=True):
        file = f"{path.parent.name}/{path.stem}-as{other.suffix}"
        shutil.copy(path, tmp_path / "renamed" / file)
        wrong[str(path.relative_to(source))] = file
    assert build(source, tmp_path / "right") == 0
    assert build(tmp_path / "renamed", tmp_path / "wrong") == 0
    right, renamed = log_mels(tmp_path / "right"), log_mels(tmp_path / "wrong")
    assert len(renamed) == len(right) == len(files)
    for file, other in wrong.items():
        np.testing.assert_array_equal(renamed[other], right[file], err_msg=other)


def test_a_text_file_named_wav_is_an_error_and_the_rest_is_built(source: Path, tmp_path: Path, capfd) -> None:
    shutil.copytree(source, tmp_path / "in")
    (tmp_path / "in" / "lossy" / "notes.wav").write_text("Tuesday: call them back\n" * 50)
    (tmp_path / "in" / "lossy" / "notes.txt").write_text("not audio by its extension")
    assert build(tmp_path / "in", tmp_path / "out") == 3
    said = capfd.readouterr().err.splitlines()
    assert said[0] == f"skipped: 1 file in {tmp_path}/in without an audio extension"
    assert said[-2].startswith("error: lossy/notes.wav: is not audio that libsndfile or FFmpeg can read")
    assert re.search(r"out: 25 examples \(train 25\) in 1 shard, 3\.3 MB, 1 error, in", said[-1])
    (error,) = error_rows(open_records(tmp_path / "out"))
    assert (error["file"], error["stage"]) == ("lossy/notes.wav", "decode")
    assert len(log_mels(tmp_path / "out")) == 25
