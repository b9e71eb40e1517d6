"""The training curves of one network, or of all networks of a cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import pandas as pd

from ser_batch.reports.drawing import curves
from ser_batch.reports.page import Picture, Section, Table

_LINES = {"": "training", "val_": "validation"}


def read_history(text: TextIO | Path) -> pd.DataFrame:
    """A history that training has written.

    Raises:
        ValueError: it is damaged.
    """
    history = pd.read_csv(text).astype(float)
    if missing := {"epoch", "loss", "accuracy"} - set(history):
        raise ValueError(f"no column {min(missing)}")
    return history


def training_sections(histories: Mapping[str, Sequence[pd.DataFrame]]) -> list[Section]:
    """Loss and accuracy after each epoch; no section without histories.

    Args:
        histories: by the part of the network, see `ser_batch.training.recipes.PARTS`: one of each training, with the
            columns epoch, loss and accuracy, and with val_loss and val_accuracy where there are validation recordings.
    """
    pictures = [_picture(part, own, name) for part, own in histories.items() for name in ("loss", "accuracy") if own]
    n_trainings = max(map(len, histories.values()), default=0)
    text = [f"The mean of {n_trainings} trainings, with a thin line for each. Folds have no validation recordings."]
    return [Section("Training", text if n_trainings > 1 else [], pictures)] if pictures else []


def _picture(part: str, histories: Sequence[pd.DataFrame], name: str) -> Picture:
    mean = pd.concat(histories).groupby("epoch", as_index=False).mean()
    lines = {shown: mean[prefix + name].tolist() for prefix, shown in _LINES.items() if prefix + name in mean}
    last = ", ".join(f"{shown} {values[-1]:.3f}" for shown, values in lines.items())
    each = [one[name].tolist() for one in histories] if len(histories) > 1 else []
    of = "" if len(histories) == 1 else ", mean of all trainings"
    return Picture(
        f"{part or 'network'}-{name}",
        f"{name.capitalize()} of {part.upper() or 'the network'} after each epoch{of}; last: {last}",
        f"{name} over epochs{of}; last: {last}",
        lambda: curves(mean.epoch.astype(int).tolist(), lines, name, each),
        Table(f"history{part and '-' + part}", "History", mean.columns.tolist(), mean.to_numpy().tolist()),
    )
