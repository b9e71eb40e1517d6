"""Show the first rows of a prediction table in a terminal of 80 columns.

python tools/show_table.py preds.csv
"""

import csv
import sys
from itertools import islice
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

_SHOWN_ROWS = 14


def main(path: Path) -> None:
    """Print the best two emotions of each recording of one CSV, with novelty and warnings."""
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        rows = list(islice(reader, _SHOWN_ROWS))
        labels = [column for column in reader.fieldnames or [] if column.startswith("p_")]
    table = Table(title=f"{path}: the first {len(rows)} rows", box=SIMPLE)
    for column in ("file", "speaker", "emotion", "next", "novelty", "notes"):
        table.add_column(column, justify="right" if column == "novelty" else "left")
    for row in rows:
        if row["error"]:
            table.add_row(row["file"], row["speaker"], "", "", "", row["error"])
            continue
        best = sorted(labels, key=lambda label: -float(row[label]))[:2]
        shown = [f"{float(row[label]):.2f} {label.removeprefix('p_')}" for label in best]
        table.add_row(row["file"], row["speaker"], *shown, f"{float(row['novelty']):.2f}", row["warnings"])
    Console(width=80).print(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
