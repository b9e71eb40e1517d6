"""The manifest: ``manifest/SHARD.parquet`` for every shard, and ``manifest/rejected.parquet``.

The task that writes a shard writes the shard's part after it. A shard with a part is not
written again.
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
REJECTED = "rejected"  # the part of recordings that were rejected before any shard

ADVICE = "run ser-batch verify to list all problems, or build-records --restart to build the folder again"

# A row for each example (a recording or one of its windows), and one for each unusable recording.
SCHEMA = pa.schema(
    {
        "file": pa.string(),  # the recording's key
        "start": pa.float64(),  # seconds: start of the example; for an error the requested start, null if not given
        "end": pa.float64(),
        "label": pa.string(),
        "speaker": pa.string(),  # empty where unknown
        "split": pa.string(),
        "shard": pa.string(),  # the shard's file name; null in the part `REJECTED`
        "index": pa.int64(),  # the example's number in its shard, from 0
        "duration": pa.float64(),  # seconds: of the recording
        "sha256": pa.string(),  # of the audio file; empty if it was not read
        "recording": pa.int64(),  # the recording's number in SOURCE's order; its windows have the same
        "window": pa.int32(),  # the window's number in its recording, from 0
        "warnings": pa.string(),  # codes, separated by spaces
        "stage": pa.string(),  # failed step: list, label, read, decode, check or worker; null for an example
        "error": pa.string(),  # reason that it is unusable, one line; null for an example
    }
)
# Columns that `ser-batch info --manifest` and `--errors` print.
MANIFEST_COLUMNS = ("file", "start", "end", "label", "speaker", "split", "shard", "index", "duration", "sha256")
ERROR_COLUMNS = ("file", "start", "end", "stage", "error", "sha256")


def part_path(folder: Path, shard: str) -> Path:
    """Path of the part of a shard, or of `REJECTED`."""
    return folder / MANIFEST / f"{shard}.parquet"


def write_part(path: Path, rows: Iterable[dict[str, Any]], facts: dict[str, str]) -> None:
    """Write a part atomically; the same content gives the same bytes.

    Args:
        path: from `part_path`.
        rows: values by the names in `SCHEMA`; missing values are null.
        facts: size and checksum of the shard, as text by name.
    """
    # Without the stored Arrow schema, readers use Parquet's own types; checksums detect damaged pages.
    options = {"store_schema": False, "write_page_checksum": True}
    with open_atomically(path, "wb") as file, pq.ParquetWriter(file, SCHEMA, **options) as writer:
        writer.write_table(pa.Table.from_pylist(list(rows), SCHEMA))
        writer.add_key_value_metadata(facts)


def read_part(path: Path, columns: Iterable[str] | None = None) -> pa.Table:
    """Read a part, or some of its columns.

    Raises:
        RecordsError: the part is missing, damaged, or has other columns; the message gives the reason.
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
    """Read the part of a shard, or of `REJECTED`, of a record folder.

    Raises:
        RecordsError: as `read_part`; the message also has the path and advice.
    """
    path = part_path(folder, name)
    try:
        return read_part(path, columns)
    except RecordsError as error:
        raise RecordsError(f"{path}: {error}; {ADVICE}") from error


def examples(part: pa.Table) -> pa.Table:
    """The rows of examples in a part."""
    return part.filter(part["error"].is_null())


def failed(part: pa.Table) -> pa.Table:
    """The rows of unusable recordings in a part."""
    return part.filter(part["error"].is_valid())


def shard_facts(table: pa.Table) -> dict[str, str]:
    """Size and checksum of the shard, as `write_part` stored them."""
    return {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}


def rejection_row(rejection: Rejection) -> dict[str, Any]:
    """The row of an unusable recording."""
    start, end = rejection.part
    # Reasons may contain the name of a list, which may not be valid UTF-8.
    reason = rejection.reason.encode("utf-8", "backslashreplace").decode()
    row = {"file": rejection.file, "start": start, "end": end, "stage": rejection.stage, "error": reason}
    return row | {"sha256": rejection.sha256}
