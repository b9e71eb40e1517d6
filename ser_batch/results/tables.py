"""Predictions to tables, and what a table tells of itself."""

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ser_batch.errors import OutputError
from ser_batch.files import disk_errors_named, open_exclusively
from ser_batch.results.predictions import Prediction

_BEFORE = ("file", "start", "end", "emotion", "confidence")
_AFTER = ("duration", "model", "warnings", "error")


def table_columns(labels: Sequence[str]) -> list[str]:
    """The columns of a prediction table, for a model's labels."""
    return [*_BEFORE, *(f"p_{label}" for label in labels), *_AFTER]


def table_row(prediction: Prediction, labels: Sequence[str], model: str) -> list[str]:
    """One row; of a recording that could not be used, only file, model and error are filled."""
    if prediction.error:
        return [prediction.file, *[""] * (len(_BEFORE) - 1 + len(labels) + 1), model, "", prediction.error]
    best = max(range(len(labels)), key=lambda index: prediction.probabilities[index])
    shown = [f"{probability:.6f}" for probability in prediction.probabilities]
    return [
        prediction.file,
        clock(prediction.start_secs),
        clock(prediction.end_secs),
        labels[best],
        shown[best],
        *shown,
        f"{prediction.duration_secs:.6f}",
        model,
        " ".join(prediction.warnings),
        "",
    ]


def clock(secs: float) -> str:
    """Seconds as ``HH:MM:SS.ffffff``, which `pandas.to_timedelta` and audformat read."""
    whole, micros = divmod(round(round(secs, 6) * 1_000_000), 1_000_000)
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours:02d}:{minute:02d}:{second:02d}.{micros:06d}"


@contextmanager
def open_table(out: str, stdout: IO[str]) -> Iterator[IO[str]]:
    """A file to write rows into: it appears whole, at the end; ``-`` is standard output, as rows come.

    Raises:
        OutputError: it cannot be written, or another run is writing it.
    """
    if out != "-":
        with disk_errors_named(Path(out)), open_exclusively(Path(out)) as file:
            yield file
        return
    try:
        yield stdout
        stdout.flush()
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stdout.fileno())  # or the interpreter's last flush fails, too
        raise OutputError("standard output was closed before all rows were written") from error


@dataclass(frozen=True)
class TableSummary:
    """What a finished prediction table holds.

    Attributes:
        labels: of the model, in its order.
        models: the short fingerprints in the column ``model``.
        files, starts: those columns, in order.
        errors: (file, reason) of each row without a prediction.
    """

    labels: tuple[str, ...]
    models: frozenset[str]
    files: tuple[str, ...]
    starts: tuple[str, ...]
    errors: list[tuple[str, str]]


def read_summary(path: Path) -> TableSummary:
    """Read a prediction table.

    Raises:
        OutputError: it is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(f"{path}: not a prediction table ({error}); name another --out") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    header = next(reader, [])
    labels = tuple(column[2:] for column in header[len(_BEFORE) : -len(_AFTER)])
    if header != table_columns(labels):
        raise OutputError(f"{path}: exists and is no prediction table; move it, or name another --out")
    rows = list(reader)
    return TableSummary(
        labels,
        frozenset(row[-3] for row in rows),
        tuple(row[0] for row in rows),
        tuple(row[1] for row in rows),
        [(row[0], row[-1]) for row in rows if row[-1]],
    )
