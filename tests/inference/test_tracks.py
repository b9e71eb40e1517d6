"""Label tracks: read back by the libraries of their tools, or by the fields of their format."""

import shutil
from pathlib import Path

import audformat
import pympi
import pytest
from praatio import textgrid
from pyannote.database.util import load_rttm

from ser_batch.cli.app import main
from ser_batch.cli.console import SOME_FAILED
from ser_batch.inference.audformat_database import AUDFORMAT
from ser_batch.inference.predictions import Prediction
from ser_batch.inference.table import FORMATS, TableForm
from ser_batch.inference.track_formats import KINDS

LABELS = ("anger", 'j"oy & <hope>', "neutral")


def window(file: str, start: float, best: int, confidence: float = 0.8, channel: int | None = None) -> Prediction:
    shares = [(1.0 - confidence) / 2] * 3
    shares[best] = confidence
    return Prediction(file, start, start + 10.0, tuple(shares), duration_secs=31.5, channel=channel)


# Windows of 10 s that begin every 5 s: anger to 10 s, joy to 15 s, anger to 25 s.
CALL = [(0.0, 0, 0.9), (5.0, 0, 0.5), (10.0, 1, 0.8), (15.0, 0, 0.8)]
EXPECTED = [(0.0, 10.0, "anger"), (10.0, 15.0, LABELS[1]), (15.0, 25.0, "anger")]


def table(path: Path, rows: list[Prediction], by_channel: bool = False, kind: str = "csv") -> Path:
    with open(path, "wb") as file, FORMATS[kind](file, TableForm(LABELS, by_channel), "abc") as append:
        append(rows)
    return path


def tracks(path: Path, kind: str, *options: str) -> Path:
    out = path.with_name("tracks")
    assert main(["tracks", str(path), "-o", str(out), "--format", kind, *options]) == 0
    return out


def call(file: str, channel: int | None = None) -> list[Prediction]:
    return [window(file, start, best, confidence, channel) for start, best, confidence in CALL]


def test_audacity(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = [*call("a.wav"), Prediction("bad.wav", error="holds no samples")]
    out = tracks(table(tmp_path / "preds.csv", rows), "audacity")
    lines = (out / "a.wav.txt").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "0.000000\t10.000000\tanger 0.70",  # the mean of both windows
        '10.000000\t15.000000\tj"oy & <hope> 0.80',
        "15.000000\t25.000000\tanger 0.80",
    ]
    assert [path.name for path in out.iterdir()] == ["a.wav.txt"]
    assert capfd.readouterr().err == f"{out}: 1 file of 1 recording; 1 row without a prediction\n"


@pytest.mark.parametrize("kind", list(FORMATS))
def test_praat_reads_a_textgrid(tmp_path: Path, kind: str) -> None:
    rows = [*call("calls/a.wav", 0), *call("calls/a.wav", 1)[1:]]
    out = tracks(table(tmp_path / f"preds.{kind}", rows, True, kind), "textgrid")
    grid = textgrid.openTextgrid(str(out / "calls" / "a.wav.TextGrid"), includeEmptyIntervals=True)
    assert grid.tierNames == ("emotion, channel 0", "emotion, channel 1")
    assert grid.maxTimestamp == 31.5
    first, second = (grid.getTier(name).entries for name in grid.tierNames)
    assert [tuple(one) for one in first] == [*EXPECTED, (25.0, 31.5, "")]
    assert [tuple(one) for one in second] == [(0.0, 5.0, ""), (5.0, 10.0, "anger"), *EXPECTED[1:], (25.0, 31.5, "")]


def test_elan_reads_its_document(tmp_path: Path) -> None:
    rows = [*call("a\x01.wav", 0), *call("a\x01.wav", 1)]
    out = tracks(table(tmp_path / "preds.csv", rows, True), "elan")
    document = pympi.Elan.Eaf(str(out / "a\x01.wav.eaf"))
    assert sorted(document.get_tier_names()) == ["emotion, channel 0", "emotion, channel 1"]
    for tier in document.get_tier_names():
        found = document.get_annotation_data_for_tier(tier)
        assert found == [(1000 * start, 1000 * end, label) for start, end, label in EXPECTED]


def test_pyannote_reads_rttm(tmp_path: Path) -> None:
    out = tracks(table(tmp_path / "preds.csv", call("my call.wav", 1), True), "rttm")
    (annotation,) = load_rttm(out / "my call.wav.rttm").values()
    found = [(part.start, part.end, label) for part, _, label in annotation.itertracks(yield_label=True)]
    assert annotation.uri == "my_call.wav"
    assert found == [(start, end, "_".join(label.split())) for start, end, label in EXPECTED]
    rows = [line.split() for line in (out / "my call.wav.rttm").read_text(encoding="utf-8").splitlines()]
    assert [len(row) for row in rows] == [10] * 3
    assert [(row[0], row[1], row[2]) for row in rows] == [("SPEAKER", "my_call.wav", "2")] * 3
    assert [(float(row[3]), float(row[3]) + float(row[4])) for row in rows] == [one[:2] for one in EXPECTED]
    assert [row[7] for row in rows] == ["anger", 'j"oy_&_<hope>', "anger"]


def test_audformat_opens_the_database(tmp_path: Path) -> None:
    rows = [*call("calls/a.wav"), *call('b, "c".wav'), Prediction("bad.wav", error="holds no samples")]
    out = tracks(table(tmp_path / "preds.parquet", rows, kind="parquet"), AUDFORMAT)
    database = audformat.Database.load(str(out))
    assert list(database.tables) == ["emotion"]
    found = database["emotion"].get(map={})
    assert audformat.is_segmented_index(found)
    assert database.schemes["emotion"].labels == sorted(LABELS[:2])
    secs = [(file, start.total_seconds(), end.total_seconds()) for file, start, end in found.index]
    expected = [(file, *one[:2]) for file in ("calls/a.wav", 'b, "c".wav') for one in EXPECTED]
    assert secs == expected
    assert found["emotion"].tolist() == [one[2] for one in EXPECTED] * 2
    assert found["confidence"].tolist() == [0.7, 0.8, 0.8] * 2


def test_audformat_has_a_table_for_each_channel(tmp_path: Path) -> None:
    rows = [*call("a.wav", 0), *call("a.wav", 1)]
    out = tracks(table(tmp_path / "preds.csv", rows, True), AUDFORMAT)
    database = audformat.Database.load(str(out))
    assert list(database.tables) == ["emotion-channel-0", "emotion-channel-1"]
    assert [len(database[name]) for name in database.tables] == [3, 3]


def test_audacity_has_a_file_for_each_channel(tmp_path: Path) -> None:
    out = tracks(table(tmp_path / "preds.csv", [*call("a.wav", 0), *call("a.wav", 1)], True), "audacity")
    assert sorted(path.name for path in out.iterdir()) == ["a.wav.channel-0.txt", "a.wav.channel-1.txt"]


def test_no_name_leaves_the_folder_or_is_too_long(tmp_path: Path) -> None:
    names = ["/etc/a.wav", "../../a.wav", "x" * 255, "y" * 254 + "1", "y" * 254 + "2", "a\nb.wav"]
    rows = [row for name in names for row in call(name)]
    out = tracks(table(tmp_path / "preds.parquet", rows, kind="parquet"), "audacity")
    files = list(tmp_path.rglob("*.txt"))
    assert len(files) == 6
    assert all(path.is_relative_to(out) for path in files)
    assert {"etc", "__"} <= {path.name for path in out.iterdir()}


def test_parts_of_one_file_that_are_not_together_keep_their_tracks(tmp_path: Path) -> None:
    out = tracks(table(tmp_path / "preds.csv", [*call("a.wav"), *call("b.wav"), *call("a.wav")[:1]]), "audacity")
    assert sorted(path.name for path in out.iterdir()) == ["a.wav.2.txt", "a.wav.txt", "b.wav.txt"]


@pytest.mark.parametrize("kind", [*KINDS, AUDFORMAT])
def test_bytes_are_equal_every_time(tmp_path: Path, kind: str) -> None:
    path = table(tmp_path / "preds.csv", [*call("a.wav"), *call("b/c.wav")])

    def content() -> dict[str, bytes]:
        out = tracks(path, kind, "-q")
        return {str(one.relative_to(out)): one.read_bytes() for one in out.rglob("*") if one.is_file()}

    assert content() == content()
    assert len(content()) == 2


@pytest.mark.parametrize("kind", ["textgrid", "audformat"])
def test_infer_writes_tracks_beside_its_table(
    tmp_path: Path, emodb_sample: Path, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    source = tmp_path / "in"
    source.mkdir()
    for name in ("03a01Wa.wav", "16a04Ea.wav"):
        shutil.copy(emodb_sample / name, source)
    (source / "broken.wav").write_bytes(b"RIFF")
    out = tmp_path / "preds.csv"
    assert main(["infer", str(source), "-o", str(out), "-j", "1", "--windows", "--tracks", kind]) == SOME_FAILED
    lines = [line.split(":")[0] for line in capfd.readouterr().err.splitlines()]
    assert lines.index(str(out)) < lines.index(str(tmp_path / "preds-tracks")) == len(lines) - 1
    written = {path.name: path.read_bytes() for path in (tmp_path / "preds-tracks").iterdir()}
    assert written
    assert tracks(out, kind, "-q").name == "tracks"
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "tracks").iterdir()}


def test_wrong_tracks_of_infer_are_refused_before_any_work(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "preds.csv"
    assert main(["infer", str(tmp_path), "-o", str(out), "--tracks", "midi"]) == 2
    assert "midi: no such format of label tracks; choose one of audacity, textgrid" in capfd.readouterr().err
    assert main(["infer", str(tmp_path), "-o", "-", "--tracks", "elan"]) == 2
    assert "--tracks: --out - writes no table; give a file as --out" in capfd.readouterr().err
    assert not out.exists()


def test_what_cannot_be_done_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "preds.csv", call("a.wav"))
    assert main(["tracks", str(path), "-o", str(tmp_path / "t"), "--format", "midi"]) == 2
    assert "choose one of audacity, textgrid, rttm, elan, audformat" in capfd.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["tracks", str(path), "-o", str(tmp_path / "file")]) == 1
    assert (
        capfd.readouterr().err
        == f"error: {tmp_path / 'file'}: is not a folder; choose another --out for the files of the tracks\n"
    )
    assert main(["tracks", str(tmp_path / "file"), "-o", str(tmp_path / "t")]) == 1
    assert "is not a prediction table" in capfd.readouterr().err
