from ser_batch.inference.predictions import Prediction
from ser_batch.inference.summaries import TableSummary, error_pattern
from ser_batch.reports.text import table_lines

LABELS = ("anger", "fear")


def summary() -> TableSummary:
    counted = TableSummary()
    for file, probabilities in {"a.wav": (0.9, 0.1), "=b.wav": (0.2, 0.8), "c.wav": (0.7, 0.3)}.items():
        counted.add([Prediction(file, 0.0, 1800.0, probabilities, 1800.0, 0.5, ("quiet",))], LABELS)
    for at in ("0.500", "7"):
        counted.add([Prediction(f"{at}.wav", error=f"has a sample that is not finite, at {at} s")], LABELS)
    counted.add([Prediction("z.wav", error="is empty (0 bytes)")], LABELS)
    return counted


def test_the_lines_of_a_summary() -> None:
    assert table_lines(summary(), "preds.csv", audio_secs=3600.0, secs=100.0) == [
        "warning: 1 name with =, +, - or @ at the start; import into a spreadsheet as text",
        "preds.csv: 6 rows, 3 of them errors, in 100.0 s",
        "  audio     1.5 h, 1.0 h of it now, 36 x real time",
        "  emotions  anger 66.7%, fear 33.3%",
        "  warnings  quiet 3",
        "  errors    2 x has a sample that is not finite, at N s",
        "            1 x is empty (0 bytes)",
    ]


def test_windows_are_rows_and_not_files() -> None:
    counted = TableSummary()
    rows = [Prediction("a.wav", start, start + 3, (0.1, 0.9), 6.0, 0.5, ("clipped",)) for start in (0.0, 1.5, 3.0)]
    assert counted.add(rows, LABELS) == rows
    assert table_lines(counted, "preds.jsonl", 6.0, 2.0) == [
        "preds.jsonl: 3 rows of 1 recording, 0 of them errors, in 2.0 s",
        "  audio     6.0 s, 3 x real time",
        "  emotions  fear 100.0%",
        "  warnings  clipped 1",
    ]


def test_a_summary_survives_json() -> None:
    import json

    assert TableSummary.from_json(json.loads(json.dumps(summary().to_json()))) == summary()


def test_many_reasons_are_cut_and_counted() -> None:
    counted = TableSummary()
    for number in range(15):
        counted.add([Prediction("a.wav", error=f"reason {chr(97 + number)}")], LABELS)
    lines = table_lines(counted, "-", 0.0, 1.0)
    assert lines[-1] == "            5 for 5 other reasons"
    assert len(lines) == 13


def test_error_pattern() -> None:
    assert error_pattern("line 5: not a time: '1:2:3'; write seconds (12.5)") == (
        "line N: not a time: '…'; write seconds (N)"
    )
