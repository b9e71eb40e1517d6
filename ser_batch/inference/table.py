"""The prediction table: columns, three file formats, and reading its description.

All formats have the same columns and the same numbers, rounded to six decimals.
"""

import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch.errors import OutputError, UsageError
from ser_batch.formatting import format_timestamp, parse_secs
from ser_batch.inference.predictions import Prediction
from ser_batch.storage.writing import write_rows

_PART = ("file", "start", "end", "speaker")
_BEST = ("emotion", "confidence")
_AFTER = ("duration", "novelty", "model", "warnings", "error")
_TIMES = {"start", "end"}
_TEXTS = {"file", "speaker", "emotion", "model", "warnings", "error"}

_SUFFIXES = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_ROWS_PER_GROUP = 1 << 14
_ROWS_PER_READ = 1 << 12  # as Python objects, rows take much more memory than in Arrow

# Appends the rows of some predictions.
Append = Callable[[Iterable[Prediction]], None]


@dataclass(frozen=True)
class TableForm:
    """Columns of a prediction table.

    Attributes:
        labels: of the model, in its order.
        by_channel: whether there is a column ``channel``.
    """

    labels: tuple[str, ...]
    by_channel: bool = False

    @property
    def columns(self) -> list[str]:
        """All column names."""
        channel = ("channel",) if self.by_channel else ()
        return [*_PART, *channel, *_BEST, *(f"p_{label}" for label in self.labels), *_AFTER]


def table_values(prediction: Prediction, form: TableForm, model: str) -> list[Any]:
    """One row: text, numbers (times and durations in seconds), or None for an empty cell."""
    labels = form.labels
    channel = [prediction.channel] if form.by_channel else []
    if prediction.error:
        part = [None if secs is None else round(secs, 6) for secs in prediction.part]
        who = [prediction.speaker or None, *channel]
        return [prediction.file, *part, *who, *[None] * (2 + len(labels) + 2), model, None, prediction.error]
    best = prediction.best
    shares = [round(probability, 6) for probability in prediction.probabilities]
    times = (round(prediction.start_secs, 6), round(prediction.end_secs, 6))
    figures = (round(prediction.duration_secs, 6), round(prediction.novelty, 6))
    warnings = " ".join(prediction.warnings) or None
    known = [prediction.file, *times, prediction.speaker or None, *channel, labels[best], shares[best]]
    return [*known, *shares, *figures, model, warnings, None]


def table_format(out: str, wanted: str | None) -> str:
    """The format of a table: ``wanted``, else from the suffix of ``out``; CSV for standard output.

    Raises:
        UsageError: the format or the suffix is unknown.
    """
    if wanted is not None and wanted not in FORMATS:
        raise UsageError(f"--format {wanted}: no such format; choose one of {', '.join(FORMATS)}")
    if wanted is None and out == "-":
        return "csv"
    suffix = Path(out).suffix.lower()
    if wanted is None and suffix not in _SUFFIXES:
        shown = f"suffix {suffix}" if suffix else "no suffix"
        raise UsageError(
            f"{out}: unknown table format ({shown}); end the name with {', '.join(_SUFFIXES)}, or give --format"
        )
    return wanted or _SUFFIXES[suffix]


@contextmanager
def _csv(file: IO[bytes], form: TableForm, model: str) -> Iterator[Append]:
    columns = form.columns

    def write(rows: Iterable[Sequence[str]]) -> None:
        text = io.StringIO(newline="")
        write_rows(text, rows)
        file.write(text.getvalue().encode())

    def append(predictions: Iterable[Prediction]) -> None:
        rows = (table_values(prediction, form, model) for prediction in predictions)
        write([_csv_text(*pair) for pair in zip(columns, row, strict=True)] for row in rows)

    write([columns])
    yield append


def _csv_text(column: str, value: Any) -> str:
    if value is None:
        return ""
    if column in _TIMES:
        return format_timestamp(value)
    return f"{value:.6f}" if isinstance(value, float) else str(value)


@contextmanager
def _jsonl(file: IO[bytes], form: TableForm, model: str) -> Iterator[Append]:
    columns = form.columns

    def append(predictions: Iterable[Prediction]) -> None:
        for prediction in predictions:
            row = dict(zip(columns, table_values(prediction, form, model), strict=True))
            file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    yield append


@contextmanager
def _parquet(file: IO[bytes], form: TableForm, model: str) -> Iterator[Append]:

    schema = _schema(form)
    rows: list[list[Any]] = []
    with pq.ParquetWriter(file, schema) as writer:

        def flush() -> None:
            writer.write_table(_arrow_table(rows, schema))
            rows.clear()

        def append(predictions: Iterable[Prediction]) -> None:
            for prediction in predictions:
                rows.append(table_values(prediction, form, model))
                if len(rows) == _ROWS_PER_GROUP:
                    flush()

        yield append
        if rows:
            flush()


def _schema(form: TableForm) -> pa.Schema:

    kinds = [(_TIMES, pa.duration("us")), (_TEXTS, pa.string()), ({"channel"}, pa.int64())]
    types = {name: kind for names, kind in kinds for name in names}
    return pa.schema([(column, types.get(column, pa.float64())) for column in form.columns])


def _arrow_table(rows: Sequence[Sequence[Any]], schema: pa.Schema) -> pa.Table:

    arrays = []
    for column, values in zip(schema, zip(*rows, strict=True), strict=True):
        if column.name in _TIMES:
            values = tuple(None if secs is None else round(secs * 1_000_000) for secs in values)
        arrays.append(pa.array(values, column.type))
    return pa.table(arrays, schema=schema)


FORMATS: dict[str, Callable[[IO[bytes], TableForm, str], AbstractContextManager[Append]]] = {
    "csv": _csv,
    "parquet": _parquet,
    "jsonl": _jsonl,
}


@dataclass(frozen=True)
class TableInfo:
    """Description of a prediction table file, for ``info``.

    Attributes:
        format: one of `FORMATS`.
        labels: of the model, in its order.
        models: the short fingerprints in the column ``model``.
        n_rows: number of rows.
        n_errors: number of rows without a prediction.
    """

    format: str
    labels: tuple[str, ...]
    models: frozenset[str]
    n_rows: int
    n_errors: int


def read_table_info(path: Path) -> TableInfo:
    """Read a prediction table and describe it.

    Raises:
        OutputError: the file is not a prediction table.
    """
    kind, labels = read_kind(path)
    models, n_rows, n_errors = set(), 0, 0
    for row in _READERS[kind](path):
        models.add(str(row["model"]))
        n_rows += 1
        n_errors += bool(row["error"])
    return TableInfo(kind, labels, frozenset(models), n_rows, n_errors)


def read_kind(path: Path) -> tuple[str, tuple[str, ...]]:
    """The format and the labels of a prediction table, from its header.

    Raises:
        OutputError: the file is not a prediction table.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(4)
        kind = "parquet" if begin == b"PAR1" else "jsonl" if begin.startswith(b"{") else "csv"
        header = list(next(_READERS[kind](path), {}))
    except UnicodeError as error:
        raise OutputError(f"{path}: is not a prediction table (not a text file)") from error
    except (OSError, ValueError, csv.Error) as error:  # ValueError: from json and pyarrow
        raise OutputError(f"{path}: is not a prediction table ({error})") from error
    by_channel = header[len(_PART) : len(_PART) + 1] == ["channel"]
    labels = tuple(column[2:] for column in header[len(_PART) + by_channel + len(_BEST) : -len(_AFTER)])
    if header != TableForm(labels, by_channel).columns:
        raise OutputError(f"{path}: is not a prediction table")
    return kind, labels


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a prediction table of any format: text, numbers (times in seconds), None for an empty cell.

    Raises:
        OutputError: the file is not a prediction table, or a row is damaged.
    """
    kind, labels = read_kind(path)
    numbers = {"confidence", "duration", "novelty", *(f"p_{label}" for label in labels)}
    n_read = 0
    try:
        for row in _READERS[kind](path):
            yield {column: _value(column, value, numbers) for column, value in row.items()}
            n_read += 1
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        raise OutputError(f"{path}: row {n_read + 1} is damaged ({error}); run infer again with --restart") from error


def _value(column: str, value: Any, numbers: Collection[str]) -> Any:
    if value is None or value == "":
        return None
    if column in _TIMES:
        return value.total_seconds() if isinstance(value, timedelta) else parse_secs(str(value))
    if column == "channel":
        return int(value)
    return float(value) if column in numbers else str(value)


def _read_csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="\n") as file:
        yield from map(json.loads, file)


def _read_parquet(path: Path) -> Iterator[dict[str, Any]]:

    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(_ROWS_PER_READ):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "csv": _read_csv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
}
