"""Plots of confusion matrices and reliability."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import seaborn
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pandas import DataFrame

from ser_batch.evaluation.metrics import Reliability
from ser_batch.evaluation.plot_style import BLUE, ORANGE, styled
from ser_batch.storage.writing import open_atomically

_LABELS_WITH_COUNTS = 20


def plot_confusion(confusion: NDArray[np.int64], labels: Sequence[str], title: str, path: Path) -> None:
    """Write a confusion matrix as a PNG; see `draw_confusion`."""
    _write(draw_confusion(confusion, labels, title), path)


@styled()
def draw_confusion(confusion: NDArray[np.int64], labels: Sequence[str], title: str) -> Figure:
    """A confusion matrix: shaded by the share of each true label, with counts if labels are few.

    Args:
        confusion: int64 ``(labels, labels)``; rows are true labels, columns predicted ones.
        labels: names of rows and columns.
        title: title of the plot.
    """
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    few = len(labels) <= _LABELS_WITH_COUNTS  # the counts of more labels do not fit into the cells
    texts = [
        [f"{share:.0%}\n{count}" if count else "" for share, count in zip(*row, strict=True)]
        for row in zip(shares, confusion, strict=True)
    ]
    side = max(4.5, 1.4 + 0.75 * min(len(labels), _LABELS_WITH_COUNTS))
    figure = Figure(figsize=(side * 1.15, side), layout="constrained")
    axes = figure.add_subplot()
    seaborn.heatmap(
        DataFrame(shares, list(labels), list(labels)),
        annot=np.array(texts) if few else False,
        fmt="",
        cmap="Blues",
        vmin=0.0,
        vmax=1.0,
        square=True,
        linewidths=0.5 if few else 0,
        xticklabels=few or "auto",
        yticklabels=few or "auto",
        annot_kws={"size": 9},
        cbar_kws={"label": "share of the true emotion", "shrink": 0.8},
        ax=axes,
    )
    axes.set(xlabel="predicted emotion", ylabel="true emotion", title=_wrapped(title))
    axes.tick_params(axis="x", rotation=45)
    axes.tick_params(axis="y", rotation=0)
    return figure


def plot_reliability(before: Reliability, after: Reliability, title: str, path: Path) -> None:
    """Write a reliability diagram as a PNG; see `draw_reliability`."""
    _write(draw_reliability({"before calibration": before, "after calibration": after}, title), path)


@styled()
def draw_reliability(found: Mapping[str, Reliability], title: str) -> Figure:
    """A reliability diagram: accuracy over confidence, and below it the number of predictions.

    Args:
        found: at most two, by name.
        title: title of the plot.
    """
    figure = Figure(figsize=(5.6, 7.2), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    axes.plot([0, 1], [0, 1], color="0.6", linestyle="--", linewidth=1, label="perfect calibration")
    for (name, one), colour in zip(found.items(), (ORANGE, BLUE), strict=False):
        edges = np.linspace(0, 1, one.n_bins + 1)
        filled = one.counts > 0
        shares = one.counts[filled] / one.counts.sum()
        points = one.confidence[filled], one.accuracy[filled]
        axes.scatter(*points, s=8 + 400 * shares, color=colour, alpha=0.8, linewidths=0)
        # Bins with few predictions have noisy accuracies: no line.
        steady = shares >= 0.01
        named = f"{name}, ECE {one.error:.3f}"
        axes.plot(points[0][steady], points[1][steady], color=colour, linewidth=1.5, label=named)
        counts.stairs(one.counts, edges, color=colour, linewidth=1.4)
    axes.set(ylabel="share of correct predictions", title=_wrapped(title), ylim=(-0.03, 1.03))
    figure.legend(loc="outside lower center", frameon=False)
    counts.set(xlabel="confidence (probability of the predicted emotion)", ylabel="predictions", xlim=(-0.02, 1.02))
    return figure


def _write(figure: Figure, path: Path) -> None:
    with open_atomically(path, "wb") as file, styled():
        figure.savefig(file, format="png", dpi=150, metadata={"Software": None})


def _wrapped(title: str) -> str:
    return "\n".join(textwrap.fill(line, 56) for line in title.splitlines())
