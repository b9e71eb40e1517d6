"""A folder of everything that people's folders hold, and the table of it."""

import csv
import os
import re
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_batch.audio.decoders import Float32s
from ser_batch.cli.app import main
from ser_batch.models.bundles import shipped_bundle
from tests.audio.encoding import FFMPEG_FORMATS, encode_sample

LABELS = shipped_bundle().labels
SPOKEN = "03a01Wa.wav"
RATE_HZ = 16_000


def tone(secs: float = 1.0, level: float = 0.5) -> Float32s:
    n_samples = round(secs * RATE_HZ)
    return (level * np.sin(2 * np.pi * 440 * np.arange(n_samples) / RATE_HZ)).astype(np.float32)


def wav(path: Path, samples: Float32s, subtype: str = "PCM_16", rate_hz: int = RATE_HZ) -> None:
    with open(path, "wb") as file:  # soundfile takes no name that is not UTF-8
        soundfile.write(file, samples, rate_hz, subtype, format="WAV")


def with_header(path: Path, channels: int = 1, rate_hz: int = RATE_HZ, n_bytes: int = 32_000) -> None:
    """A second of 16-bit audio under a header that may lie."""
    claimed = (b"RIFF", 36, b"WAVE", b"fmt ", 16, 1, channels, rate_hz % 2**32, 2 * RATE_HZ, 2, 16, b"data", n_bytes)
    path.write_bytes(struct.pack("<4sI4s4sIHHIIHH4sI", *claimed) + (32_767 * tone()).astype("<i2").tobytes())


def with_sample(value: float) -> Float32s:
    samples = tone()
    samples[8000] = value
    return samples


def archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as content:
        content.writestr("a.wav", b"RIFF")


def picture(path: Path) -> None:
    import matplotlib.pyplot as plt

    plt.imsave(path, np.zeros((8, 8)), format="png")


# How each is made, and the expected outcome: warnings, or after "!" the beginning of its error.
HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    # no audio
    "empty.wav": (lambda path: path.write_bytes(b""), "!is empty (0 bytes)"),
    "text.wav": (lambda path: path.write_text("Tuesday: call them back\n" * 9), "!is not audio that libsndfile or"),
    "zeros.mp3": (lambda path: path.write_bytes(bytes(100_000)), "!is not audio that libsndfile or"),
    "noise.ogg": (lambda path: path.write_bytes(np.random.default_rng(0).bytes(50_000)), "!is not audio that lib"),
    "archive.wav": (archive, "!is not audio that libsndfile or FFmpeg can read"),
    "picture.wav": (picture, "!is not audio that libsndfile or FFmpeg can read"),
    "playlist.wav": (lambda path: path.write_text("#EXTM3U\n#EXTINF:9,\nspoken.wav\n"), "!is not audio that libsnd"),
    "concat.avi": (lambda path: path.write_text("ffconcat version 1.0\nfile spoken.wav\n"), "!is not audio that libs"),
    # headers
    "only header.wav": (lambda path: path.write_bytes(b"RIFF\x24\0\0\0WAVEfmt "), "!is not audio that libsndfile or"),
    "no samples.wav": (lambda path: wav(path, tone(0)), "!has no samples"),
    "one billion hertz.wav": (
        lambda path: with_header(path, rate_hz=10**9),
        "!claims 1000000000 Hz; readable are 1000 to",
    ),
    "no hertz.wav": (lambda path: with_header(path, rate_hz=0), "!"),
    "no channels.wav": (lambda path: with_header(path, channels=0), "!"),
    "many channels.wav": (lambda path: with_header(path, channels=1000), "!claims 1000 channels; readable are 1 to 64"),
    "ten hours claimed.wav": (lambda path: with_header(path, n_bytes=1_152_000_000), "cut"),
    # samples
    "silence.wav": (lambda path: wav(path, tone(level=0)), "!is digital silence: every sample is zero"),
    "opposite channels.wav": (
        lambda path: wav(path, np.stack([tone(), -tone()], axis=1), "FLOAT"),
        "!is digital silence: the mean of its channels is zero throughout; try --channel 0",
    ),
    "not a number.wav": (
        lambda path: wav(path, with_sample(np.nan), "FLOAT"),
        "!has a sample that is not finite, at 0.500 s",
    ),
    "infinite.wav": (lambda path: wav(path, with_sample(np.inf), "FLOAT"), "!has a sample that is not finite, at 0.5"),
    "huge.wav": (lambda path: wav(path, with_sample(1e20), "FLOAT"), "!has a sample of 1e+20, where full scale is 1"),
    "constant.wav": (lambda path: wav(path, np.full(RATE_HZ, 0.25, np.float32)), ""),
    "one sample.wav": (lambda path: wav(path, tone()[1:2]), "short"),
    "short.wav": (lambda path: wav(path, tone(0.01)), "short"),
    "quiet.wav": (lambda path: wav(path, tone(level=0.001)), "quiet"),
    "clipped.wav": (lambda path: wav(path, np.clip(9 * tone(), -1, 1)), "clipped"),
    "long.wav": (lambda path: wav(path, tone(10)), ""),
    "double.wav": (lambda path: wav(path, tone(), "DOUBLE"), ""),
    "eight bits.wav": (lambda path: wav(path, tone(), "PCM_U8"), ""),
    "24 channels.wav": (lambda path: wav(path, np.repeat(tone()[:, None], 24, axis=1)), ""),
    "telephone.wav": (lambda path: wav(path, tone(2)[::2], rate_hz=8000), ""),
    "192 kHz.flac": (lambda path: soundfile.write(path, np.tile(tone(), 12), 192_000), ""),
    # names
    'comma, and "quotes".wav': (lambda path: wav(path, tone()), ""),
    "new\nline.wav": (lambda path: wav(path, tone()), ""),
    "carriage\rreturn.wav": (lambda path: wav(path, tone()), ""),
    "tab\tand bell\a.wav": (lambda path: wav(path, tone()), ""),
    "back\\slash.wav": (lambda path: wav(path, tone()), ""),
    "=HYPERLINK(1).wav": (lambda path: wav(path, tone()), ""),
    "+1.wav": (lambda path: wav(path, tone()), ""),
    "-1.wav": (lambda path: wav(path, tone()), ""),
    "@SUM(A1).wav": (lambda path: path.write_bytes(b""), "!is empty (0 bytes)"),
    "Ünïcode 😀.wav": (lambda path: wav(path, tone()), ""),
    os.fsdecode(b"\xff\xfe latin.wav"): (lambda path: wav(path, tone()), ""),
    f"{'n' * 251}.wav": (lambda path: wav(path, tone()), ""),
    "UPPER.WAV": (lambda path: wav(path, tone()), ""),
    "wrong extension.mp3": (lambda path: wav(path, tone()), ""),
    # what is no file
    "dangling.wav": (lambda path: path.symlink_to("nowhere.wav"), "!cannot be read: No such file or directory"),
    "itself.wav": (lambda path: path.symlink_to(path.name), "!cannot be read: Too many levels of symbolic links"),
    "pipe.wav": (os.mkfifo, "!"),
    "link.wav": (lambda path: path.symlink_to("spoken.wav"), ""),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> Path:
    folder = tmp_path_factory.mktemp("hostile") / "in"
    folder.mkdir()
    shutil.copy(emodb_sample / SPOKEN, folder / "spoken.wav")
    for name, (make, _) in HOSTILE.items():
        make(folder / name)
    for name in ("m4a-aac", "amr"):
        whole = encode_sample(folder, name, emodb_sample / SPOKEN)
        whole.rename(folder / f"phone{whole.suffix}")
        (folder / f"cut{whole.suffix}").write_bytes((folder / f"phone{whole.suffix}").read_bytes()[:600])
    assert FFMPEG_FORMATS
    (folder / "silent film.mp4").write_bytes(b"")
    no_track = folder / "no track.mp4"
    film(no_track)
    (folder / "in" / "folder.wav").mkdir(parents=True)
    wav(folder / "in" / "folder.wav" / "one.wav", tone())
    (folder / "in" / "up").symlink_to(folder)
    for name in (".hidden.wav", "notes.txt", "no extension"):
        wav(folder / name, tone())
    return folder


def film(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode(None))


BESIDE = {
    "spoken.wav": "",
    "phone.m4a": "",
    "phone.amr": "",
    "cut.m4a": "!has no index (moov)",
    "cut.amr": "short cut",
    "silent film.mp4": "!is empty (0 bytes)",
    "no track.mp4": "!has no audio track",
    "in/folder.wav/one.wav": "",
    "in/up": "!is a link to a folder that contains it",
}


def shown(name: str) -> str:
    r"""How a table names a file: `\xNN` for what is not UTF-8, a backslash doubled."""
    return os.fsencode(name).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


@pytest.fixture(scope="module")
def made(folder: Path) -> tuple[int, Path]:
    out = folder.parent / "preds.csv"
    return main(["infer", str(folder), "-o", str(out), "-j", "3", "-q"]), out


def test_every_input_has_its_row(made: tuple[int, Path]) -> None:
    code, out = made
    assert code == 3
    with open(out, encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    expected = {shown(name): outcome for name, (_, outcome) in HOSTILE.items()} | BESIDE
    assert len(expected) > 50
    assert set(rows) == set(expected)
    for name, row in rows.items():
        outcome = expected[name]
        assert row["model"] == shipped_bundle().short_fingerprint
        if outcome.startswith("!"):
            assert row["error"].startswith(outcome[1:] or ("c", "i")), (name, row["error"])
            assert (row["start"], row["end"]) == ("" if name == "in/up" else "00:00:00.000000", "")
            assert not any(row[column] for column in row.keys() - {"file", "start", "model", "error"})
            assert "\n" not in row["error"]
            continue
        # Most of the batch is not speech, so all of it is unlike the training data.
        assert (row["warnings"], row["error"]) == (f"{outcome} unfamiliar".strip(), ""), name
        assert sum(float(row[f"p_{label}"]) for label in LABELS) == pytest.approx(1, abs=1e-5)
        assert re.fullmatch(r"00:00:\d\d\.\d{6}", row["end"])
        assert float(row["duration"]) == pytest.approx(pd.to_timedelta(row["end"]).total_seconds(), abs=1e-5)
    assert rows["=HYPERLINK(1).wav"]["emotion"]
    same = [row for name, row in rows.items() if name in {"+1.wav", "-1.wav", "UPPER.WAV", "wrong extension.mp3"}]
    assert len({row["p_anger"] for row in same}) <= 2  # its place in a batch may move the last digit


def test_order_is_by_path_and_what_cannot_be_listed_comes_last(made: tuple[int, Path], folder: Path) -> None:
    files = pd.read_csv(made[1])["file"].tolist()
    names = sorted([*(name for name in HOSTILE), *(name for name in BESIDE if name != "in/up")])
    assert files == [*map(shown, names), "in/up"]


def test_pandas_and_audformat_read_it(made: tuple[int, Path]) -> None:
    import audformat

    frame = pd.read_csv(made[1])
    assert frame["error"].notna().sum() > 15
    index = audformat.utils.read_csv(str(made[1]))
    assert audformat.is_segmented_index(index)
    assert len(index) == len(frame)


@pytest.mark.parametrize("suffix", ["csv", "parquet", "jsonl"])
def test_duckdb_reads_it(made: tuple[int, Path], folder: Path, suffix: str) -> None:
    out = folder.parent / f"duck.{suffix}"
    assert main(["infer", str(folder), "-o", str(out), "-j", "2", "-q"]) == 3
    reader = {"csv": "read_csv", "parquet": "read_parquet", "jsonl": "read_json"}[suffix]
    query = f"SELECT count(*), count(emotion), avg(confidence), max(duration) FROM {reader}(?)"
    total, predicted, confidence, longest = duckdb.execute(query, [str(out)]).fetchone() or ()
    frame = pd.read_csv(made[1])
    assert (total, predicted) == (len(frame), frame["emotion"].notna().sum())
    assert confidence == pytest.approx(frame["confidence"].mean(), rel=1e-9)
    assert longest == pytest.approx(frame["duration"].max(), rel=1e-9)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_other_formats_agree(made: tuple[int, Path], folder: Path, suffix: str) -> None:
    out = folder.parent / f"preds.{suffix}"
    assert main(["infer", str(folder), "-o", str(out), "-j", "3", "-q"]) == 3
    frame = pd.read_parquet(out) if suffix == "parquet" else pd.read_json(out, lines=True)
    table = pd.read_csv(made[1])
    assert frame["file"].tolist() == table["file"].tolist()
    for column in ("emotion", "warnings", "error"):
        assert frame[column].fillna("").tolist() == table[column].fillna("").tolist()
    for column in ("confidence", "duration", *(f"p_{label}" for label in LABELS)):
        np.testing.assert_allclose(frame[column].astype(float), table[column], rtol=1e-12)


def test_the_folder_is_as_it_was(made: tuple[int, Path], folder: Path) -> None:
    assert len(list(folder.iterdir())) == len(HOSTILE) + 8 + 3


def test_the_summary_names_the_reasons(made: tuple[int, Path], folder: Path, capfd) -> None:
    assert main(["infer", str(folder), "-o", str(made[1]), "-j", "3"]) == 3
    output = capfd.readouterr().err.splitlines()
    assert output[0] == f"skipped: 2 files in {folder} without an audio extension"
    assert "warning: 4 names with =, +, - or @ at the start; import into a spreadsheet as text" in output
    assert any(
        re.fullmatch(r"  errors    \d+ x is not audio that libsndfile or FFmpeg can read.*", line) for line in output
    )
    assert any(line.endswith(" x has a sample that is not finite, at 0.500 s") for line in output)
    assert any(line.startswith("  emotions  ") and "%" in line for line in output)
    assert all(line.isprintable() for line in output)
