"""The manifest of a record folder as rows, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch.records.folder import RecordFolder
from ser_batch.records.manifest import MANIFEST_COLUMNS, part_path, read_part, shard_facts, write_part
from ser_batch.records.reader import Selection, manifest_rows


def example_rows(records: RecordFolder, selection: Selection | None = None) -> list[dict[str, Any]]:
    tables = manifest_rows(records, selection, *MANIFEST_COLUMNS) if selection else records.manifest(*MANIFEST_COLUMNS)
    return [row for table in tables for row in table.to_pylist()]


def error_rows(records: RecordFolder) -> list[dict[str, Any]]:
    return [row for table in records.errors() for row in table.to_pylist()]


def edit_part(folder: Path, shard: str, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> None:
    """Write other rows in place of a part's."""
    path = part_path(folder, shard)
    part = read_part(path)
    write_part(path, change(part.to_pylist()), shard_facts(part))


def write_table(path: Path, columns: dict[str, list[Any]]) -> None:
    """Write another table in place of a part."""
    pq.write_table(pa.table(columns), path)
