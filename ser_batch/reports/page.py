"""A report page: its content as plain objects, and one self-contained HTML file made from them."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from ser_batch.evaluation.plot_style import styled
from ser_batch.reports.clips import Clip
from ser_batch.reports.drawing import svg_text
from ser_batch.storage.writing import open_atomically

# A value of a cell: text, or a number with its decimals.
Cell = str | int | float | None


@dataclass(frozen=True)
class Table:
    """A table that can be sorted, and filtered if it is long.

    Attributes:
        name: of the file of its download.
        caption: one line above it.
        columns: names.
        rows: cells; None: empty.
        decimals: of the columns with fractions, by name.
        choices: names of columns with a drop-down list to filter by; empty: the table has no filters.
    """

    name: str
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    decimals: dict[str, int] = field(default_factory=dict)
    choices: Sequence[str] = ()

    def shown(self, column: str, value: Cell) -> str:
        """A cell as text."""
        if value is None:
            return ""
        if isinstance(value, float):
            return f"{value:.{self.decimals.get(column, 3)}f}"
        return f"{value:,}" if isinstance(value, int) else value

    def options(self, column: str) -> list[str]:
        """The different values of a column."""
        place = list(self.columns).index(column)
        return sorted({str(row[place]) for row in self.rows if row[place] not in (None, "")})

    def is_numeric(self, column: str) -> bool:
        """Whether the column has numbers only."""
        place = list(self.columns).index(column)
        return all(row[place] is None or isinstance(row[place], int | float) for row in self.rows)

    @property
    def download(self) -> str:
        """The table as the URL of a CSV file."""
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([self.columns, *self.rows])
        return "data:text/csv;base64," + base64.b64encode(text.getvalue().encode()).decode()


@dataclass(frozen=True)
class Picture:
    """A picture, with the numbers that it shows.

    Attributes:
        name: of its files, in lower case with hyphens.
        title: one line.
        description: what it shows, for readers who do not see it.
        draw: makes the figure.
        data: the numbers.
    """

    name: str
    title: str
    description: str
    draw: Callable[[], Figure]
    data: Table

    @property
    def svg(self) -> Markup:
        """The picture as SVG text in the colours of the page."""
        return Markup(svg_text(self.draw, self.name, self.description))  # noqa: S704  # made by Matplotlib, which escapes


@dataclass(frozen=True)
class Interval:
    """A part of a recording with its predicted emotion, for a timeline; positions in percent."""

    left: float
    width: float
    colour: str
    opacity: float
    text: str


@dataclass(frozen=True)
class Timeline:
    """The emotions of a recording over time.

    Attributes:
        name: of the recording.
        length: as text.
        intervals: in order.
    """

    name: str
    length: str
    intervals: Sequence[Interval]


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: also in the navigation.
        text: paragraphs.
        pictures, tables, clips, timelines: its content, in this order.
        legend: colours and names, of the timelines.
    """

    title: str
    text: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    clips: Sequence[Clip] = ()
    timelines: Sequence[Timeline] = ()
    legend: Sequence[tuple[str, str]] = ()

    @property
    def anchor(self) -> str:
        """Its name in links."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower())


@dataclass(frozen=True)
class Page:
    """A report page.

    Attributes:
        title, subtitle: of the page.
        warnings: sentences that stand first.
        facts: names and values, the most important first.
        sections: in order.
    """

    title: str
    subtitle: str
    warnings: Sequence[str]
    facts: Sequence[tuple[str, str]]
    sections: Sequence[Section]

    def to_html(self) -> str:
        """The page as one HTML file without references to others."""
        environment = Environment(loader=PackageLoader("ser_batch.reports"), autoescape=True, trim_blocks=True)
        return environment.get_template("page.html").render(page=self)

    def write_pictures(self, folder: Path) -> None:
        """Write every picture as a PNG and an SVG file."""
        folder.mkdir(parents=True, exist_ok=True)
        options: dict[str, dict[str, Any]] = {"png": {"Software": None}, "svg": {"Date": None}}
        for picture in (one for section in self.sections for one in section.pictures):
            with styled():
                figure = picture.draw()
                for suffix, metadata in options.items():
                    with open_atomically(folder / f"{picture.name}.{suffix}", "wb") as file:
                        figure.savefig(file, format=suffix, dpi=200, metadata=metadata)
