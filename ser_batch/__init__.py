"""Batch speech emotion recognition: audio folders to TFRecords, training, predictions to CSV."""

from typing import Any

__version__ = "0.1.0"

_COMMANDS = (
    "build_records",
    "verify",
    "train",
    "cross_validate",
    "evaluate",
    "compare",
    "infer",
    "tracks",
    "report",
    "export",
)
_NOTEBOOKS = ("load_bundle", "load_records", "read_predictions")

__all__ = (*_COMMANDS, *_NOTEBOOKS)


def __getattr__(name: str) -> Any:
    """The functions of `ser_batch.api` and `ser_batch.notebooks`, loaded on first use (PEP 562)."""
    if name in _COMMANDS:
        from ser_batch import api

        return getattr(api, name)
    if name in _NOTEBOOKS:
        from ser_batch import notebooks

        return getattr(notebooks, name)
    raise AttributeError(f"module 'ser_batch' has no attribute {name!r}")
