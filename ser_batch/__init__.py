"""Batch speech emotion recognition: audio folders to TFRecords, training, predictions to CSV."""

from typing import Any

__version__ = "0.1.0"

__all__ = (
    "build_records",
    "verify",
    "train",
    "cross_validate",
    "evaluate",
    "compare",
    "infer",
    "tracks",
    "report",
    "load_bundle",
)


def __getattr__(name: str) -> Any:
    """The functions of `ser_batch.api`, loaded on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'ser_batch' has no attribute {name!r}")
    from ser_batch import api

    return getattr(api, name)
