"""Scores to pictures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ser_batch.files import open_atomically


def plot_confusion(confusion: NDArray[np.int64], labels: Sequence[str], title: str, path: Path) -> None:
    """Draw a confusion matrix as a PNG: shaded by the share of each true label, with counts.

    Args:
        confusion: ``(labels, labels)``; row: the truth, column: the prediction.
        labels: names of rows and columns.
        title: above the picture.
        path: the PNG to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import seaborn
    from matplotlib.figure import Figure

    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    texts = [
        [f"{share:.0%}\n{count}" if count else "" for share, count in zip(*row, strict=True)]
        for row in zip(shares, confusion, strict=True)
    ]
    side = max(4.5, 1.4 + 0.75 * len(labels))
    figure = Figure(figsize=(side * 1.15, side), layout="constrained")
    axes = figure.add_subplot()
    seaborn.heatmap(
        shares,
        annot=np.array(texts),
        fmt="",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        square=True,
        linewidths=0.5,
        xticklabels=list(labels),
        yticklabels=list(labels),
        annot_kws={"size": 9},
        cbar_kws={"label": "share of the true emotion", "shrink": 0.8},
        ax=axes,
    )
    axes.set(xlabel="predicted emotion", ylabel="true emotion", title=title)
    axes.tick_params(axis="x", rotation=45)
    axes.tick_params(axis="y", rotation=0)
    with open_atomically(path, "wb") as file:
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})
