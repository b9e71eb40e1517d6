"""`infer --channel` on recordings of calls, one person on each channel."""

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from ser_batch.audio.channels import parse_channels, with_channels
from ser_batch.cli.app import main
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import Recording, make_table, recordings
from ser_batch.errors import UsageError
from ser_batch.runtime.local import LocalEngine

ANGRY, SAD = "03a01Wa.wav", "11a02Tc.wav"


@pytest.fixture
def calls(tmp_path: Path, emodb_sample: Path) -> Path:
    """A call of two people, one of a single person, one with a silent channel, and a damaged one."""
    folder = tmp_path / "calls"
    folder.mkdir()
    angry, rate_hz = soundfile.read(emodb_sample / ANGRY, dtype="float32")
    sad, _ = soundfile.read(emodb_sample / SAD, dtype="float32")
    length = min(len(angry), len(sad))
    soundfile.write(folder / "both.wav", np.stack([angry[:length], sad[:length]], axis=1), rate_hz)
    soundfile.write(folder / "mono.wav", angry[:length], rate_hz)
    soundfile.write(folder / "one-silent.wav", np.stack([angry, np.zeros_like(angry)], axis=1), rate_hz)
    (folder / "damaged.wav").write_bytes(b"RIFF")
    return folder


def infer(source: Path, out: Path, *options: str) -> list[dict[str, str]]:
    """Predict each recording alone, so that rows of different tables can be compared."""
    main(["infer", str(source), "-o", str(out), "-j", "2", "-q", "--adapt", "none", *options])
    with open(out, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(row: dict[str, str]) -> list[str]:
    return [value for name, value in row.items() if name.startswith("p_")]


def test_each_channel_has_a_row(calls: Path, tmp_path: Path) -> None:
    rows = infer(calls, tmp_path / "each.csv", "--channel", "each")
    assert list(rows[0])[:5] == ["file", "start", "end", "speaker", "channel"]
    assert [(row["file"], row["channel"]) for row in rows] == [
        ("both.wav", "0"),
        ("both.wav", "1"),
        ("damaged.wav", ""),
        ("mono.wav", "0"),
        ("one-silent.wav", "0"),
        ("one-silent.wav", "1"),
    ]
    first, second, _, alone, _, silent = rows
    assert probabilities(first) == probabilities(alone)
    assert probabilities(first) != probabilities(second)
    assert "channels-differ" not in first["warnings"]
    assert "digital silence" in silent["error"]
    for row, channel in [(first, "0"), (second, "1")]:
        chosen = infer(calls, tmp_path / f"{channel}.csv", "--channel", channel)
        assert "channel" not in chosen[0]
        assert probabilities(chosen[0]) == probabilities(row)


def test_the_mean_of_two_people_is_warned_about(calls: Path, tmp_path: Path) -> None:
    rows = infer(calls, tmp_path / "mean.csv")
    assert ["channels-differ" in row["warnings"] for row in rows] == [True, False, False, False]
    assert infer(calls, tmp_path / "asked.csv", "--channel", "mean") == rows


def test_windows_of_each_channel(tmp_path: Path, emodb_sample: Path) -> None:
    speech = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in sorted(emodb_sample.glob("*.wav"))])
    speech = speech[: 16_000 * 21]
    soundfile.write(tmp_path / "call.wav", np.stack([speech, speech[::-1]], axis=1), 16_000)
    rows = infer(tmp_path / "call.wav", tmp_path / "preds.csv", "--channel", "each", "--windows")
    assert [row["channel"] for row in rows] == ["0"] * 4 + ["1"] * 4
    assert [row["start"] for row in rows[:4]] == [row["start"] for row in rows[4:]]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_other_formats_have_the_column_too(calls: Path, tmp_path: Path, suffix: str, capfd) -> None:
    out = tmp_path / f"preds.{suffix}"
    main(["infer", str(calls), "-o", str(out), "-q", "--channel", "each"])
    frame = pd.read_parquet(out) if suffix == "parquet" else pd.read_json(out, lines=True)
    assert frame["channel"].fillna(-1).tolist() == [0, 1, -1, 0, 0, 1]
    assert main(["info", str(out)]) == 0
    assert "6 rows" in capfd.readouterr().out


def test_the_same_command_continues_and_another_channel_is_another_table(calls: Path, tmp_path: Path, capfd) -> None:
    out = tmp_path / "preds.csv"
    infer(calls, out, "--channel", "each")
    before = out.read_bytes()
    assert main(["infer", str(calls), "-o", str(out), "--adapt", "none", "--channel", "each"]) == 3
    assert "already finished" in capfd.readouterr().err
    assert main(["infer", str(calls), "-o", str(out), "--adapt", "none", "--channel", "0"]) == 1
    output = capfd.readouterr().err
    assert 'differences: channel was "each", now 0. Give --restart' in output
    assert out.read_bytes() == before
    assert main(["infer", str(calls), "-o", "-", "-q", "--channel", "each"]) == 3
    assert capfd.readouterr().out.encode() == before


def test_a_channel_that_is_not_there_is_a_row(calls: Path, tmp_path: Path) -> None:
    rows = infer(calls, tmp_path / "preds.csv", "--channel", "1")
    assert "has no channel 1" in rows[2]["error"]


def test_parts_keep_their_times(calls: Path, tmp_path: Path) -> None:
    (calls / "parts.csv").write_text("file,start,end\nboth.wav,0.25,1\nboth.wav,90,91\n")
    rows = infer(calls / "parts.csv", tmp_path / "preds.csv", "--channel", "each")
    assert [(row["start"], row["channel"], bool(row["error"])) for row in rows] == [
        ("00:00:00.250000", "0", False),
        ("00:00:00.250000", "1", False),
        ("00:01:30.000000", "0", True),
        ("00:01:30.000000", "1", True),
    ]


@pytest.mark.parametrize("text", ["all", "-1", "1.5", "", "64", "9" * 20])
def test_other_words_are_wrong_usage(calls: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"mean, each, or the number"):
        parse_channels(text)
    assert main(["infer", str(calls), "-o", str(tmp_path / "preds.csv"), f"--channel={text}"]) == 2


def test_recordings_keep_their_channel() -> None:
    listed = [
        Recording("a.wav", "/x/a.wav", channel=3),
        Recording("b.wav", "/x/b.wav", "joy", "anna", "train", 1.5, 2.0, "mean"),
        Recording("c.wav", "/y/d.wav", start_secs=1.0, channel=0),
        Recording("e.wav", "/y/e.wav"),
    ]
    assert list(recordings(make_table(listed))) == listed


def test_a_thousand_files_are_expanded_in_order(calls: Path) -> None:
    listed = list_source(str(calls)).recordings
    many = listed.take([number % len(listed) for number in range(1000)])
    with LocalEngine(2) as engine:
        found = with_channels(many, "each", engine)
    assert len(found) == 1500
    assert [one.channel for one in recordings(found.slice(0, 6))] == [0, 1, None, 0, 0, 1]
