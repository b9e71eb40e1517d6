"""The report page of a prediction table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.columns import ALIASES, read_csv
from ser_batch.errors import SourceError
from ser_batch.evaluation.metrics import reliability, score
from ser_batch.evaluation.plot_style import colours
from ser_batch.formatting import pluralize
from ser_batch.inference.summaries import error_pattern
from ser_batch.inference.table import read_kind, read_rows
from ser_batch.reports.clips import ClipMaker
from ser_batch.reports.drawing import bars
from ser_batch.reports.page import Cell, Interval, Page, Picture, Section, Table, Timeline
from ser_batch.reports.score_report import NOVELTY_TEXT, Scored, score_sections, share_histogram
from ser_batch.reports.text import duration_text, many_unfamiliar

# Limits that keep the page of any table small.
SHOWN_ROWS = 2_000
_SHOWN_SPEAKERS = 300
_SHOWN_REASONS = 100
_TIMELINES = 12
_INTERVALS = 400
_BINS = 20

_WARNINGS = {
    "unfamiliar": "unlike the training data",
    "clipped": "the level is at its limit for many samples",
    "quiet": "very low level",
    "short": "shorter than half a second",
    "cut": "audio is missing",
    "channels-differ": "the mean of the channels mixes two signals",
    "beginning-only": "longer than what the front end takes",
    "end-beyond": "the requested end is beyond the end of the file",
}


@dataclass
class _Counts:
    """Counts of a table, updated row by row; their size does not depend on the number of rows, but on names."""

    labels: tuple[str, ...]
    n_rows: int = 0
    recordings: set[int] = field(default_factory=set)
    secs: float = 0.0
    emotions: Counter[str] = field(default_factory=Counter)
    confidences: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    warnings: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    models: set[str] = field(default_factory=set)
    speakers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    histograms: NDArray[np.int64] = field(default_factory=lambda: np.zeros((2, _BINS), np.int64))
    first_rows: list[dict[str, Any]] = field(default_factory=list)
    windows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def n_errors(self) -> int:
        """Number of rows without a prediction."""
        return self.reasons.total()

    @property
    def n_predicted(self) -> int:
        """Number of rows with a prediction."""
        return self.n_rows - self.n_errors

    @property
    def is_windowed(self) -> bool:
        """Whether recordings have several rows."""
        return len(self.recordings) < self.n_predicted

    def add(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self.n_rows += 1
        self.models.add(row["model"] or "")
        if len(self.first_rows) < SHOWN_ROWS:
            self.first_rows.append(row)
        if row["error"]:
            self.reasons[error_pattern(row["error"])] += 1
            return
        name = recording_name(row)
        if (key := hash(name)) not in self.recordings:
            self.recordings.add(key)
            self.secs += row["duration"] or 0.0
        self.emotions[row["emotion"]] += 1
        self.confidences[row["emotion"]] += row["confidence"]
        self.warnings.update((row["warnings"] or "").split())
        self.speakers[row["speaker"] or ""][row["emotion"]] += 1
        for place, column in enumerate(("confidence", "novelty")):
            self.histograms[place, min(int(row[column] * _BINS), _BINS - 1)] += 1
        if name in self.windows or len(self.windows) < _TIMELINES:
            of_recording = self.windows.setdefault(name, [])
            if len(of_recording) < _INTERVALS:
                of_recording.append(row)


def recording_name(row: Mapping[str, Any]) -> str:
    """File and channel of a row."""
    channel = row.get("channel")
    return str(row["file"]) if channel is None else f"{row['file']}, channel {channel}"


def prediction_page(path: Path, truth: Path | None = None, make_clips: ClipMaker | None = None) -> Page:
    """The page of a prediction table.

    Args:
        path: of the table.
        truth: a CSV with the columns ``file`` and ``label``, to score the table; None: it is not scored.
        make_clips: makes clips of the mistakes; None: there are none.

    Raises:
        OutputError: the file is not a prediction table.
        SourceError: ``truth`` cannot be read, or has no file of the table.
    """
    labels = read_kind(path)[1]
    counts, known = _Counts(labels), _Truth.read(truth) if truth else None
    for row in read_rows(path):
        counts.add(row)
        if known:
            known.add(row, labels)
    scored = known.scored(labels) if known else None
    warnings = []
    if many_unfamiliar(counts.warnings["unfamiliar"], counts.n_predicted):
        warnings.append(
            f"{counts.warnings['unfamiliar']:,} of {pluralize(counts.n_predicted, 'row')} are unlike the training "
            "data. Do not trust these predictions."
        )
    facts = [
        ("recordings", f"{len(counts.recordings) + counts.n_errors:,}"),
        ("errors", f"{counts.n_errors:,}"),
        ("audio", duration_text(counts.secs)),
        ("model", ", ".join(sorted(counts.models))),
    ]
    if counts.is_windowed:
        facts.insert(1, ("windows", f"{counts.n_predicted:,}"))
    if counts.n_predicted:
        mean = sum(counts.confidences.values()) / counts.n_predicted
        facts.insert(2, ("mean confidence", f"{mean:.2f}"))
    if scored:
        facts = [*scored.facts, *facts]
    sections = [*_overview(counts), *_problems(counts), *_speakers(counts), *_timelines(counts), _rows(counts)]
    if scored:
        sections = [*score_sections(scored, make_clips), *sections]
    return Page(f"Predictions: {path.name}", _subtitle(counts), warnings, facts, sections)


def _subtitle(counts: _Counts) -> str:
    shown = ", ".join(counts.labels)
    return f"{pluralize(counts.n_rows, 'row')}; labels of the model: {shown}"


def _overview(counts: _Counts) -> list[Section]:
    if not counts.n_predicted:
        return []
    unit = "windows" if counts.is_windowed else "recordings"
    rows = [
        (label, counts.emotions[label], counts.emotions[label] / counts.n_predicted, _mean_confidence(counts, label))
        for label in counts.labels
    ]
    table = Table("emotions", "Predicted emotions", ["emotion", unit, "share", "mean confidence"], rows)
    values = [row[1] for row in rows]
    picture = Picture(
        "emotions-shares",
        f"Number of {unit} for each predicted emotion",
        ", ".join(f"{label} {value}" for label, value in zip(counts.labels, values, strict=True)),
        lambda: bars(counts.labels, values, unit, colours(len(counts.labels))),
        table,
    )
    sections = [Section("Emotions", pictures=[picture], tables=[table])]
    pictures = [
        share_histogram(name, column, unit)
        for name, column in zip(("confidence", "novelty"), counts.histograms, strict=True)
    ]
    texts = ["Confidence is the probability of the predicted emotion.", NOVELTY_TEXT]
    return [*sections, Section("Confidence and novelty", texts, pictures)]


def _mean_confidence(counts: _Counts, label: str) -> float | None:
    return counts.confidences[label] / counts.emotions[label] if counts.emotions[label] else None


def _problems(counts: _Counts) -> list[Section]:
    tables = []
    if counts.warnings:
        rows = [(code, count, _WARNINGS.get(code, "")) for code, count in counts.warnings.most_common()]
        tables.append(Table("warnings", "Rows with warnings", ["warning", "rows", "meaning"], rows))
    if counts.reasons:
        reasons = counts.reasons.most_common(_SHOWN_REASONS)
        left = len(counts.reasons) - len(reasons)
        more = f"; {pluralize(left, 'more reason')} not shown" if left else ""
        tables.append(Table("errors", f"Recordings without a prediction{more}", ["reason", "recordings"], reasons))
    return [Section("Warnings and errors", tables=tables)] if tables else []


def _speakers(counts: _Counts) -> list[Section]:
    if not set(counts.speakers) - {""}:
        return []
    ranked = sorted(counts.speakers.items(), key=lambda item: (-item[1].total(), item[0]))
    rows: list[list[Cell]] = [
        [name or "(unknown)", of.total(), *(of[label] for label in counts.labels)]
        for name, of in ranked[:_SHOWN_SPEAKERS]
    ]
    caption = "Rows for each speaker and emotion"
    if len(ranked) > len(rows):
        caption += f", for {len(rows):,} of {pluralize(len(ranked), 'speaker')} with the most rows"
    table = Table("speakers", caption, ["speaker", "rows", *counts.labels], rows)
    text = "Names such as voice-001 are groups of similar recordings, not persons that are known."
    is_found = any(name.startswith("voice-") for name in counts.speakers)
    return [Section("Speakers", [text] if is_found else [], tables=[table])]


def _timelines(counts: _Counts) -> list[Section]:
    if not counts.is_windowed:
        return []
    of_label = dict(zip(counts.labels, colours(len(counts.labels)), strict=True))
    timelines = []
    for name, rows in counts.windows.items():
        end = max(row["end"] for row in rows)
        intervals = [
            Interval(
                100 * row["start"] / end,
                100 * (following - row["start"]) / end,
                of_label[row["emotion"]],
                0.25 + 0.75 * row["confidence"],
                f"{row['start']:.1f} to {row['end']:.1f} s: {row['emotion']} {row['confidence']:.2f}",
            )
            for row, following in zip(rows, [*(row["start"] for row in rows[1:]), end], strict=True)
        ]
        cut = f", the first {_INTERVALS} windows" if len(rows) == _INTERVALS else ""
        timelines.append(Timeline(name, f"{end:.1f} s{cut}", intervals))
    text = (
        "Each strip is a recording from its beginning to its end. The colour is the predicted emotion; the paler, the "
        f"lower the confidence. Where windows overlap, the later one covers the earlier. The first {len(timelines)} of "
        f"{pluralize(len(counts.recordings), 'recording')} are shown."
    )
    legend = [(colour, label) for label, colour in of_label.items()]
    return [Section("Timelines", [text], timelines=timelines, legend=legend)]


def _rows(counts: _Counts) -> Section:
    columns = ["file", "speaker", "emotion", "confidence", "novelty", "warnings", "error"]
    if counts.is_windowed:
        columns[1:1] = ["start", "end"]
    if any("channel" in row for row in counts.first_rows[:1]):
        columns[1:1] = ["channel"]
    shown = [[row[column] for column in columns] for row in counts.first_rows]
    text = []
    if counts.n_rows > len(shown):
        text.append(
            f"The first {len(shown):,} of {pluralize(counts.n_rows, 'row')}. All of them are in the table itself."
        )
    table = Table(
        "rows",
        "Rows of the table, in its order",
        columns,
        shown,
        {"confidence": 3, "novelty": 3},
        ["emotion", "speaker"],
    )
    return Section("Rows", text, tables=[table])


@dataclass
class _Truth:
    """True labels of files, and sums of the probabilities that a table gives them.

    Attributes:
        path: of the CSV.
        labels: the true label of each file.
        sums: of the probabilities of the rows of each file.
        without: files of the table without a true label or a prediction.
    """

    path: Path
    labels: dict[str, str]
    sums: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    without: set[str] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path) -> _Truth:
        """Read the CSV.

        Raises:
            SourceError: it cannot be read, or has no columns ``file`` and ``label``.
        """
        table = read_csv(path, ("file", "label"), ALIASES)
        if missing := {"file", "label"} - table.columns:
            raise SourceError(
                f"--truth {path}: has no column {' and no column '.join(sorted(missing))}; it has "
                f"{', '.join(table.header)}: name the columns of files and true labels file and label"
            )
        return cls(path, {row["file"]: row["label"] for _, row in table.rows})

    def add(self, row: Mapping[str, Any], labels: tuple[str, ...]) -> None:
        """Add a row of the table."""
        if row["error"] or row["file"] not in self.labels:
            self.without.add(str(row["file"]))
            return
        shares = np.array([row[f"p_{label}"] for label in labels])
        self.sums[row["file"]] = self.sums.get(row["file"], 0.0) + shares

    def scored(self, labels: tuple[str, ...]) -> Scored:
        """The scores of the files of the table with a true label that the model has.

        Raises:
            SourceError: there is none.
        """
        files = [file for file in self.sums if self.labels[file] in labels]
        if not files:
            examples = ", ".join(islice(self.labels, 2))
            raise SourceError(
                f"--truth {self.path}: has no file of the table with a label of the model ({', '.join(labels)}); its "
                f"files are {examples}, …: write them as in the column file of the table"
            )
        probabilities = np.array([self.sums[file] / self.sums[file].sum() for file in files])
        truth = np.array([labels.index(self.labels[file]) for file in files])
        scores = score(truth, probabilities.argmax(axis=1), labels)
        notes = []
        if others := sorted({self.labels[file] for file in self.sums} - set(labels)):
            notes.append(f"Not scored, because the model does not have these labels: {', '.join(others)}.")
        if self.without:
            notes.append(f"{pluralize(len(self.without), 'file')} of the table without a true label or a prediction.")
        if left := len(self.labels.keys() - self.sums.keys()):
            notes.append(f"{pluralize(left, 'file')} of {self.path.name} without a row of the table.")
        return Scored.of(files, truth, probabilities, scores, {"predictions": reliability(probabilities, truth)}, notes)
