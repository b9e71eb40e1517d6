"""The one style of all pictures: colours that colour-blind readers can distinguish, text of one size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
import seaborn

BLUE, ORANGE = "#0173b2", "#de8f05"

_FEW_COLOURS = 10

_STYLE: dict[str, Any] = {
    "font.size": 10,
    "font.family": "sans-serif",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "figure.facecolor": "white",
    "text.parse_math": False,  # a label may contain dollar signs
    "svg.fonttype": "none",
    "svg.hashsalt": "ser-batch",
}


@contextmanager
def styled(**changes: Any) -> Iterator[None]:
    """Context manager: figures are drawn in the style; then the settings of the process are as before."""
    settings: Any = _STYLE | changes
    with matplotlib.rc_context(settings):
        yield


def colours(n: int) -> list[str]:
    """Different colours, as ``#rrggbb``; the first ten are from seaborn's palette for colour-blind readers."""
    palette = seaborn.color_palette("colorblind", n) if n <= _FEW_COLOURS else seaborn.husl_palette(n)
    return list(palette.as_hex())
