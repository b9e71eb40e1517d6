"""The manifest: ``manifest/SHARD.parquet`` for every shard, and ``manifest/rejected.parquet``.

A part is written by the task that writes the shard, after it. What has its part is never done again.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch.corpus.table import Rejection
from ser_batch.errors import RecordsError
from ser_batch.storage import tables  # noqa: F401 - before the first array: it keeps pandas out
from ser_batch.storage.writing import open_atomically

MANIFEST = "manifest"
REJECTED = "rejected"  # the part of what was rejected before any shard

ADVICE = "ser-batch verify says what else is wrong, and build-records --restart makes the folder anew"

# A row for each example: of a recording, or of one of its windows; and one for each recording that cannot be used.
SCHEMA = pa.schema(
    {
        "file": pa.string(),  # the recording's key
        "start": pa.float64(),  # seconds: what the example stands for; of an error as requested, null where not given
        "end": pa.float64(),
        "label": pa.string(),
        "speaker": pa.string(),  # empty where unknown
        "split": pa.string(),
        "shard": pa.string(),  # the shard's file name; null in the part of what was rejected
        "index": pa.int64(),  # the example's number in its shard, from 0
        "duration": pa.float64(),  # seconds: of the recording
        "sha256": pa.string(),  # of the audio file; empty where it was not read
        "recording": pa.int64(),  # the recording's number in SOURCE's order; its windows have the same
        "window": pa.int32(),  # the window's number in its recording, from 0
        "warnings": pa.string(),  # codes, separated by spaces
        "stage": pa.string(),  # where it failed: list, label, read, decode, check or worker; null of an example
        "error": pa.string(),  # why it cannot be used, in a line; null of an example
    }
)
# What `ser-batch info --manifest` and `--errors` print.
MANIFEST_COLUMNS = ("file", "start", "end", "label", "speaker", "split", "shard", "index", "duration", "sha256")
ERROR_COLUMNS = ("file", "start", "end", "stage", "error", "sha256")


def part_path(folder: Path, shard: str) -> Path:
    """Where the part of a shard is, or that of `REJECTED`."""
    return folder / MANIFEST / f"{shard}.parquet"


def write_part(path: Path, rows: Iterable[dict[str, Any]], facts: dict[str, str]) -> None:
    """Write a part atomically; the same content gives the same bytes.

    Args:
        path: from `part_path`.
        rows: values by the names in `SCHEMA`; what is absent is null.
        facts: what the part also tells of its shard, as text by name.
    """
    # Without the Arrow schema, readers take the types from Parquet's own; checksums find damage in a page.
    options = {"store_schema": False, "write_page_checksum": True}
    with open_atomically(path, "wb") as file, pq.ParquetWriter(file, SCHEMA, **options) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), SCHEMA))
        writer.add_key_value_metadata(facts)


def read_part(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """A part, or some of its columns.

    Raises:
        RecordsError: it is missing, damaged, or has other columns; the message says how.
    """
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            schema = file.schema_arrow
            if schema != SCHEMA:
                raise RecordsError(
                    f"its columns are {', '.join(schema.names) or 'none'}, not {', '.join(SCHEMA.names)}"
                )
            table = file.read(None if columns is None else list(columns), use_threads=False)
            table.validate(full=True)  # texts are UTF-8
            return table
    except FileNotFoundError as error:
        raise RecordsError("is missing") from error
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: also a name that is not UTF-8
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise RecordsError(f"cannot be read ({reason})") from error


def open_part(folder: Path, name: str, columns: Iterable[str] | None = None) -> pa.Table:
    """The part of a shard, or that of `REJECTED`, of a record folder.

    Raises:
        RecordsError: as `read_part` does, with the place and what to do.
    """
    path = part_path(folder, name)
    try:
        return read_part(path, columns)
    except RecordsError as error:
        raise RecordsError(f"{path}: {error}; {ADVICE}") from error


def examples(part: pa.Table) -> pa.Table:
    """The rows of a part that are of examples."""
    return part.filter(part["error"].is_null())


def failed(part: pa.Table) -> pa.Table:
    """The rows of a part that are of recordings that cannot be used."""
    return part.filter(part["error"].is_valid())


def shard_facts(table: pa.Table) -> dict[str, str]:
    """What a part also tells of its shard."""
    return {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}


def rejection_row(rejection: Rejection) -> dict[str, Any]:
    """A recording that cannot be used, as a row."""
    start, end = rejection.part
    # A list's name, which reasons may hold, need not be text.
    reason = rejection.reason.encode("utf-8", "backslashreplace").decode()
    row = {"file": rejection.file, "start": start, "end": end, "stage": rejection.stage, "error": reason}
    return row | {"sha256": rejection.sha256}
