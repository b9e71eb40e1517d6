"""Tables in three formats, as pandas and other readers find them."""

import csv
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ser_batch.errors import OutputError, UsageError
from ser_batch.formatting import format_timestamp
from ser_batch.inference.predictions import Prediction
from ser_batch.inference.table import FORMATS, TableForm, read_table_info, table_format

LABELS = ("anger", "fear")
ODD_NAMES = [
    "plain.wav",
    'comma, quote" and\nnewline.wav',
    r"not \xff utf-8.wav",
    r"back\\slash.wav",
    "=1+1.wav",
    "+1.wav",
    "-1.wav",
    "@1.wav",
    "carriage\rreturn.wav",
    "\u2028line separator.wav",
    "Ärger.wav",
    "'quoted'.wav",
    "tab\t.wav",
    " spaces .wav",
]
ROWS = [
    *(Prediction(name, 0.0, 3725.5, (0.25, 0.7500004), 3725.5, 0.9, ("quiet", "clipped")) for name in ODD_NAMES),
    Prediction("plain.wav", 3725.5, 7200.123456, (0.6, 0.4), 7200.123456, speaker="voice-001"),
    Prediction("part.wav", error="has no samples from 1.5 s on", part=(1.5, None)),
    Prediction("bad.wav", error="is empty (0 bytes)"),
]


@pytest.fixture(params=FORMATS)
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write(tmp_path / f"preds.{request.param}")


def write(path: Path) -> Path:
    with open(path, "wb") as file, FORMATS[path.suffix[1:]](file, TableForm(LABELS), "abc") as append:
        append(ROWS[:2])
        append(ROWS[2:])
    return path


def read(path: Path) -> pd.DataFrame:
    """As pandas reads it without options that concern the content; times as timedeltas."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    if path.suffix == ".csv":
        frame = pd.read_csv(path)
        return frame.assign(start=pd.to_timedelta(frame["start"]), end=pd.to_timedelta(frame["end"]))
    frame = pd.read_json(path, lines=True)
    return frame.assign(**{name: pd.to_timedelta(frame[name], unit="s") for name in ("start", "end")})


def test_columns_are_the_contract() -> None:
    columns = "file start end speaker emotion confidence p_anger p_fear duration novelty model warnings error"
    assert TableForm(LABELS).columns == columns.split()


def test_pandas_reads_all_formats_alike(table: Path) -> None:
    frame = read(table)
    assert list(frame) == TableForm(LABELS).columns
    assert frame["file"].tolist() == [row.file for row in ROWS]
    first = frame.iloc[0]
    assert (first["emotion"], first["confidence"], first["warnings"]) == ("fear", 0.75, "quiet clipped")
    assert frame["speaker"].dropna().tolist() == ["voice-001"]
    assert first["end"] == pd.Timedelta(3725.5, "s")
    assert frame["end"].iloc[-3].total_seconds() == pytest.approx(7200.123456, abs=1e-6)
    assert frame["warnings"].isna().sum() == 3
    assert frame["start"].iloc[-2] == pd.Timedelta(1.5, "s")
    assert frame.iloc[-2].drop(["file", "start", "model", "error"]).isna().all()
    assert frame["error"].tolist()[-1] == "is empty (0 bytes)"
    last = frame.iloc[-1]
    assert (last["file"], last["model"]) == ("bad.wav", "abc")
    assert last.drop(["file", "model", "error"]).isna().all()


def test_csv_is_exact_to_the_byte(tmp_path: Path) -> None:
    text = write(tmp_path / "preds.csv").read_bytes()
    assert text.startswith(
        b"file,start,end,speaker,emotion,confidence,p_anger,p_fear,duration,novelty,model,warnings,error\n"
    )
    row = b",00:00:00.000000,01:02:05.500000,,fear,0.750000,0.250000,0.750000,3725.500000,0.900000,abc,quiet clipped,\n"
    assert b"\nplain.wav" + row in text
    assert b'"comma, quote"" and\nnewline.wav"' + row in text
    assert b'"carriage\rreturn.wav"' + row in text
    assert b"\n=1+1.wav" + row in text
    assert b"\npart.wav,00:00:01.500000,,,,,,,,,abc,,has no samples from 1.5 s on\n" in text
    assert text.endswith(b"\nbad.wav,,,,,,,,,,abc,,is empty (0 bytes)\n")
    with open(tmp_path / "preds.csv", encoding="utf-8", newline="") as file:
        assert [one["file"] for one in csv.DictReader(file)] == [one.file for one in ROWS]


def test_jsonl_has_numbers_and_nulls(tmp_path: Path) -> None:
    lines = write(tmp_path / "preds.jsonl").read_bytes().decode().removesuffix("\n").split("\n")
    rows = [json.loads(line) for line in lines]
    assert rows[0] == {
        "file": "plain.wav",
        "start": 0.0,
        "end": 3725.5,
        "speaker": None,
        "emotion": "fear",
        "confidence": 0.75,
        "p_anger": 0.25,
        "p_fear": 0.75,
        "duration": 3725.5,
        "novelty": 0.9,
        "model": "abc",
        "warnings": "quiet clipped",
        "error": None,
    }
    assert [row["file"] for row in rows] == [row.file for row in ROWS]
    assert rows[-1]["confidence"] is None
    assert [(row["start"], row["end"]) for row in rows[-2:]] == [(1.5, None), (None, None)]


def test_parquet_has_types(tmp_path: Path) -> None:
    schema = pq.read_schema(write(tmp_path / "preds.parquet"))
    kinds = {name: str(schema.field(name).type) for name in schema.names}
    assert {name for name, kind in kinds.items() if kind == "string"} == {
        *("file", "speaker", "emotion", "model", "warnings", "error")
    }
    assert kinds["start"] == kinds["end"] == "duration[us]"
    assert {kinds[name] for name in ("confidence", "p_anger", "p_fear", "duration", "novelty")} == {"double"}


def test_parquet_is_written_in_groups_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "preds.parquet"
    with open(path, "wb") as file, FORMATS["parquet"](file, TableForm(LABELS), "abc") as append:
        for _ in range(40_000):
            append(ROWS[:1])
    assert pq.ParquetFile(path).metadata.num_row_groups == 3
    assert read_table_info(path).n_rows == 40_000


def test_the_summary_is_what_was_written(table: Path) -> None:
    summary = read_table_info(table)
    assert summary.format == table.suffix[1:]
    assert summary.labels == LABELS
    assert summary.models == {"abc"}
    assert (summary.n_rows, summary.n_errors) == (len(ROWS), 2)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"name,grade\nme,1\n",
        b"file,start,end,speaker,emotion,confidence,p_anger\n",
        b'{"name": "me"}\n',
        b"{not json\n",
        b"[1, 2]\n",
        b"PAR1 but no parquet",
        b"\xff\xfe\x00binary",
        b"\0" * 100,
    ],
)
def test_another_file_is_no_prediction_table(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "grades.csv").write_bytes(content)
    with pytest.raises(OutputError, match="not a prediction table"):
        read_table_info(tmp_path / "grades.csv")


@pytest.mark.parametrize(
    ("out", "wanted", "kind"),
    [
        ("a.csv", None, "csv"),
        ("A.CSV", None, "csv"),
        ("a.parquet", None, "parquet"),
        ("a.pq", None, "parquet"),
        ("a.jsonl", None, "jsonl"),
        ("a.ndjson", None, "jsonl"),
        ("a.b/c.csv", None, "csv"),
        ("-", None, "csv"),
        ("-", "jsonl", "jsonl"),
        ("a.txt", "csv", "csv"),
        ("a", "parquet", "parquet"),
    ],
)
def test_the_format_is_the_one_asked_for_or_the_suffix(out: str, wanted: str | None, kind: str) -> None:
    assert table_format(out, wanted) == kind


@pytest.mark.parametrize("out", ["a", "a.txt", "a.xlsx", "a.json", "a.csv/b", ".csv"])
def test_an_unknown_suffix_is_refused(out: str) -> None:
    with pytest.raises(UsageError, match="or give --format"):
        table_format(out, None)


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of csv, parquet, jsonl"):
        table_format("a.csv", "xlsx")


@pytest.mark.parametrize(
    ("secs", "text"), [(0.0, "00:00:00.000000"), (1.9999999, "00:00:02.000000"), (36_000.25, "10:00:00.250000")]
)
def test_format_timestamp(secs: float, text: str) -> None:
    assert format_timestamp(secs) == text
    assert pd.to_timedelta(text).total_seconds() == pytest.approx(secs, abs=1e-6)
