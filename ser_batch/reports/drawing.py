"""Pictures of reports in one style: colours that colour-blind readers can distinguish, text of one size."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from librosa.display import specshow
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.evaluation.figures import draw_confusion, draw_reliability
from ser_batch.evaluation.metrics import Reliability
from ser_batch.evaluation.plot_style import BLUE, ORANGE, styled

# Drawn in this colour, text and axes get the colour of the page's text.
_PAGE_COLOUR = "#010203"
_SHOWN_DB = 80.0

_OF_PAGE = dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color", "ytick.color"), _PAGE_COLOUR
) | {"figure.facecolor": "none", "axes.facecolor": "none", "savefig.transparent": True}


def svg_text(draw: Callable[[], Figure], name: str, description: str) -> str:
    """A figure as an ``<svg>`` element with the colours and the font of the page.

    Args:
        draw: makes the figure.
        name: prefix of the ids in it, unique on the page.
        description: for readers who do not see it.
    """
    content = io.StringIO()
    with styled(**_OF_PAGE):
        draw().savefig(content, format="svg", metadata={"Date": None}, bbox_inches="tight")
    svg = content.getvalue()
    svg = svg[svg.index("<svg") :].replace(_PAGE_COLOUR, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(id="|"#|url\(#)', rf"\g<1>{name}-", svg)
    described = description.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    return svg.replace("<svg", f'<svg role="img" aria-label="{described}"', 1)


def bars(names: Sequence[str], values: Sequence[float], axis: str, colour: Sequence[str] | None = None) -> Figure:
    """Horizontal bars with their values.

    Args:
        names: of the bars, from top to bottom.
        values: of the bars.
        axis: name of the values.
        colour: of each bar; None: all have one.
    """
    figure, axes = _figure(6.4, 0.8 + 0.3 * len(names))
    drawn = axes.barh(range(len(names)), values, color=list(colour or [BLUE] * len(names)))
    whole = all(value == int(value) for value in values)
    axes.bar_label(drawn, [f"{value:,.0f}" if whole else f"{value:.3f}" for value in values], padding=3)
    axes.set_yticks(range(len(names)), [_short(name) for name in names])
    axes.set(xlabel=axis, xlim=(0, max([*values, 1e-9]) * 1.12))
    axes.invert_yaxis()
    return figure


def histogram(counts: NDArray[np.int64], edges: NDArray[np.float64], axis: str, of: str) -> Figure:
    """Counts of values in bins of one width.

    Args:
        counts: ``(bins,)``.
        edges: of the bins, ``(bins + 1,)``.
        axis: name of the values.
        of: what is counted.
    """
    figure, axes = _figure(6.4, 2.6)
    axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=BLUE, edgecolor="white", linewidth=0.5)
    axes.set(xlabel=axis, ylabel=of, xlim=(edges[0], edges[-1]))
    return figure


def log_mels(spectrograms: Sequence[Float32s], names: Sequence[str], front_end: FrontEnd, width: float = 2.9) -> Figure:
    """Log-mel spectrograms ``(n_mels, n_frames)``, in dB, in a grid with one scale of colours.

    ``width`` is of each, in inches.
    """
    n_columns = min(len(names), 3)
    n_rows = -(-len(names) // n_columns)
    figure = Figure(figsize=(width * n_columns, 2.2 * n_rows), layout="constrained")
    grid = figure.subplots(n_rows, n_columns, squeeze=False)
    highest = max(float(one.max()) for one in spectrograms)
    for axes, log_mel, name in zip(grid.flat, spectrograms, names, strict=False):
        image = specshow(
            log_mel,
            x_axis="time",
            y_axis="mel",
            sr=front_end.rate_hz,
            hop_length=front_end.hop_length,
            fmin=front_end.fmin_hz,
            fmax=front_end.fmax_hz,
            vmin=highest - _SHOWN_DB,
            vmax=highest,
            cmap="magma",
            ax=axes,
            rasterized=True,
        )
        axes.set(title=_short(name), xlabel="", ylabel="")
        axes.xaxis.set_major_locator(MaxNLocator(4))
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=grid.ravel().tolist(), label="dB", shrink=0.7)
    return figure


def confusion(matrix: NDArray[np.int64], labels: Sequence[str]) -> Figure:
    """A confusion matrix with counts."""
    return draw_confusion(matrix, labels, "")


def reliability_diagram(found: Mapping[str, Reliability]) -> Figure:
    """Accuracy over confidence, at most two by name."""
    return draw_reliability(found, "")


def curves(
    epochs: Sequence[int], lines: Mapping[str, Sequence[float]], axis: str, each: Sequence[Sequence[float]] = ()
) -> Figure:
    """Lines over the epochs of a training, at most two by name; ``each``: thin lines below them."""
    figure, axes = _figure(6.4, 2.6)
    for values in each:
        axes.plot(epochs[: len(values)], values, color="0.6", linewidth=0.5, alpha=0.6)
    for (name, values), colour in zip(lines.items(), (BLUE, ORANGE), strict=False):
        axes.plot(epochs, values, label=name, color=colour)
    axes.set(xlabel="epoch", ylabel=axis)
    if len(lines) > 1:
        axes.legend(frameon=False)
    return figure


def differences(names: Sequence[str], pairs: Sequence[tuple[float, float]], axis: str) -> Figure:
    """A line from A to B for each name."""
    figure, axes = _figure(6.4, 1.1 + 0.22 * len(names))
    for place, (a, b) in enumerate(pairs):
        axes.plot([a, b], [place, place], color=BLUE if b >= a else ORANGE, linewidth=2)
    places = range(len(names))
    axes.scatter([a for a, _ in pairs], places, facecolors="white", edgecolors="0.4", zorder=3, label="A")
    axes.scatter([b for _, b in pairs], places, color="0.4", zorder=3, label="B")
    axes.set(
        xlabel=axis, yticks=list(places), yticklabels=[_short(name) for name in names], ylim=(len(names) - 0.4, -0.6)
    )
    axes.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _short(name: str, longest: int = 28) -> str:
    name = re.sub(r"\s+", " ", name)
    return name if len(name) <= longest else name[: longest - 1] + "…"
