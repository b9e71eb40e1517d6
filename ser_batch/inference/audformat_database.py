"""Label tracks as an audformat database: a header in YAML, and a segmented table in CSV."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import IO, Any

from ser_batch.inference.track_formats import Track
from ser_batch.storage.writing import open_atomically, os_errors_named, write_rows

AUDFORMAT = "audformat"

_COLUMNS = {
    "emotion": {"scheme_id": "emotion", "rater_id": "ser-batch"},
    "confidence": {"scheme_id": "confidence", "rater_id": "ser-batch"},
}


def write_database(folder: Path, name: str, recordings: Iterable[list[Track]]) -> int:
    """Write an audformat database, and return the number of its files.

    It has the table ``emotion``, or a table ``emotion-channel-0`` for each channel. The header is written last.

    Args:
        folder: of the database; created if absent.
        name: of the database.
        recordings: the tracks of each recording; read once, one at a time.

    Raises:
        OutputError: a file cannot be written.
    """
    labels: set[str] = set()
    tables: dict[str, IO[Any]] = {}
    with os_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            for tracks in recordings:
                for track in tracks:
                    table = "emotion" if track.channel is None else f"emotion-channel-{track.channel}"
                    if table not in tables:
                        tables[table] = stack.enter_context(open_atomically(folder / f"db.{table}.csv"))
                        write_rows(tables[table], [("file", "start", "end", *_COLUMNS)])
                    write_rows(tables[table], _rows(track))
                    labels.update(interval.emotion for interval in track.intervals)
        with open_atomically(folder / "db.yaml") as file:
            # JSON is YAML.
            file.write(json.dumps(_header(name, sorted(labels), sorted(tables)), ensure_ascii=False, indent=2) + "\n")
    return len(tables) + 1


def _rows(track: Track) -> list[tuple[str, str, str, str, str]]:
    return [
        (track.file, _duration(one.start_secs), _duration(one.end_secs), one.emotion, f"{one.confidence:.4f}")
        for one in track.intervals
    ]


def _duration(secs: float) -> str:
    """As pandas reads a timedelta."""
    whole = timedelta(microseconds=round(secs * 1e6))
    return f"{whole.days} days {timedelta(0, whole.seconds, whole.microseconds)}"


def _header(name: str, labels: list[str], tables: list[str]) -> dict[str, Any]:
    return {
        "name": name,
        "source": "",
        "usage": "unrestricted",
        "languages": [],
        "description": "Emotions over time, predicted by ser-batch",
        "raters": {"ser-batch": {"type": "machine"}},
        "schemes": {
            "emotion": {"dtype": "str", "labels": labels},
            "confidence": {"dtype": "float", "minimum": 0, "maximum": 1},
        },
        "tables": {table: {"type": "segmented", "columns": _COLUMNS} for table in tables},
    }
