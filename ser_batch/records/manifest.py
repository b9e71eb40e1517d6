"""The columns of manifest.csv and errors.csv, and the notes of unfinished builds."""

import json
from pathlib import Path
from typing import Any

BUILDING = ".building"

MANIFEST_COLUMNS = ("file", "start", "end", "label", "speaker", "split", "shard", "index", "duration", "sha256")
ERROR_COLUMNS = ("file", "start", "end", "stage", "reason", "sha256")


def note_path(folder: Path, name: str) -> Path:
    """Where the note of the shard of that name is."""
    return folder / BUILDING / f"{name}.json"


def read_note(folder: Path, name: str) -> dict[str, Any]:
    """What a shard holds: ``shard`` as in provenance.json, ``rows``, ``errors``, ``warnings``."""
    note: dict[str, Any] = json.loads(note_path(folder, name).read_text(encoding="utf-8"))
    return note
