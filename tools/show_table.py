"""Show the first rows of a prediction table in a terminal.

python tools/show_table.py preds.csv
"""

import csv
import sys
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

_SHOWN_ROWS = 14


def main(path: Path) -> None:
    """Print file, emotion, confidence, and the probabilities of one CSV."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(islice(reader, _SHOWN_ROWS))
        labels = [column for column in reader.fieldnames or [] if column.startswith("p_")]
    table = Table(title=f"{path}: the first {len(rows)} rows")
    for column in (
        "file",
        "emotion",
        "confidence",
        *(label.removeprefix("p_") for label in labels),
        "warnings",
        "error",
    ):
        table.add_column(column, justify="left" if column in {"file", "emotion", "warnings", "error"} else "right")
    for row in rows:
        shares = [f"{float(row[label]):.2f}" if row[label] else "" for label in labels]
        confidence = f"{float(row['confidence']):.2f}" if row["confidence"] else ""
        table.add_row(row["file"], row["emotion"], confidence, *shares, row["warnings"], row["error"])
    Console(width=150).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
