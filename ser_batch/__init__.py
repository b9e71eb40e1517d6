"""Batch speech emotion recognition: audio folders to TFRecords, CRNN training, predictions to CSV."""

from typing import Any

__version__ = "0.1.0"

__all__ = ("build_records", "verify", "train", "cross_validate", "evaluate", "compare", "infer", "load_bundle")


def __getattr__(name: str) -> Any:
    """The functions of `ser_batch.api`, loaded when they are first used (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module 'ser_batch' has no attribute {name!r}")
    from ser_batch import api

    return getattr(api, name)
