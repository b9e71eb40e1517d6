from pathlib import Path

import pandas as pd
import pytest

from ser_batch.errors import OutputError
from ser_batch.files import write_rows
from ser_batch.results.predictions import Prediction
from ser_batch.results.tables import clock, read_summary, table_columns, table_row

LABELS = ("anger", "fear")
ODD_NAMES = [
    "plain.wav",
    'comma, quote" and\nnewline.wav',
    r"not \xff utf-8.wav",
    "=1+1.wav",
    "carriage\rreturn.wav",
    "Ärger.wav",
]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "preds.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        write_rows(file, [table_columns(LABELS)])
        for name in ODD_NAMES:
            prediction = Prediction(name, 0.0, 3725.5, (0.25, 0.75), 3725.5, ("quiet", "clipped"))
            write_rows(file, [table_row(prediction, LABELS, "abc")])
        write_rows(file, [table_row(Prediction("bad.wav", error="is empty (0 bytes)"), LABELS, "abc")])
    return path


def test_columns_are_the_contract() -> None:
    assert table_columns(LABELS) == [
        *(
            "file",
            "start",
            "end",
            "emotion",
            "confidence",
            "p_anger",
            "p_fear",
            "duration",
            "model",
            "warnings",
            "error",
        )
    ]


def test_pandas_reads_it_back(table: Path) -> None:
    frame = pd.read_csv(table)
    assert frame["file"].tolist() == [*ODD_NAMES, "bad.wav"]
    assert pd.to_timedelta(frame["end"]).dt.total_seconds().tolist()[:1] == [3725.5]
    first = frame.iloc[0]
    assert (first["emotion"], first["confidence"], first["warnings"]) == ("fear", 0.75, "quiet clipped")


def test_a_row_with_an_error_has_nothing_else(table: Path) -> None:
    last = pd.read_csv(table).iloc[-1]
    assert (last["file"], last["model"], last["error"]) == ("bad.wav", "abc", "is empty (0 bytes)")
    assert last.drop(["file", "model", "error"]).isna().all()


def test_the_summary_is_what_was_written(table: Path) -> None:
    summary = read_summary(table)
    assert summary.labels == LABELS
    assert summary.models == {"abc"}
    assert summary.errors == [("bad.wav", "is empty (0 bytes)")]
    assert len(summary.files) == len(ODD_NAMES) + 1


def test_another_csv_is_no_prediction_table(tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_text("name,grade\nme,1\n")
    with pytest.raises(OutputError, match="no prediction table"):
        read_summary(tmp_path / "grades.csv")


@pytest.mark.parametrize(
    ("secs", "text"), [(0.0, "00:00:00.000000"), (1.9999999, "00:00:02.000000"), (36_000.25, "10:00:00.250000")]
)
def test_clock(secs: float, text: str) -> None:
    assert clock(secs) == text
    assert pd.to_timedelta(text).total_seconds() == pytest.approx(secs, abs=1e-6)
