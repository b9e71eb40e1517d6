"""Sections with scores, and the report pages of evaluations and cross-validations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ser_batch.errors import SourceError
from ser_batch.evaluation.fold_predictions import label_codes, read_predictions
from ser_batch.evaluation.folders import HISTORY, PREDICTIONS, SCORES, read_validation_summary
from ser_batch.evaluation.intervals import count_by_speaker, interval_over_speakers
from ser_batch.evaluation.metrics import Reliability, Scores, reliability, score
from ser_batch.formatting import pluralize
from ser_batch.reports.clips import CLIP_SECS, ClipMaker, Part
from ser_batch.reports.drawing import bars, confusion, histogram, reliability_diagram
from ser_batch.reports.page import Cell, Page, Picture, Section, Table
from ser_batch.reports.training_curves import training_sections
from ser_batch.storage.outputs import read_own_json

_SHOWN_MISTAKES = 30
_SHOWN_CLIPS = 12
_SHOWN_SPEAKERS = 40
_LISTED_SPEAKERS = 300


@dataclass(frozen=True)
class Scored:
    """Scores of predictions, and what the sections show of them.

    Attributes:
        scores: of all predictions.
        reliabilities: at most two, by name.
        mistakes: the most confident wrong predictions: file, speaker, true label, prediction, confidence.
        starts: in seconds, the start of each of them in its file.
        recall_intervals: 95 % interval of the recall of each label, by label.
        speakers: recordings, UAR and WA of each speaker; empty: not known.
        notes: sentences, for example on what is not scored.
        facts: names and values.
        novelty: of each recording; None: not known, or shown elsewhere.
    """

    scores: Scores
    reliabilities: Mapping[str, Reliability]
    mistakes: Sequence[tuple[str, str | None, str, str, float]]
    starts: Sequence[float]
    recall_intervals: Mapping[str, Sequence[float] | None]
    speakers: Mapping[str, Mapping[str, float]]
    notes: Sequence[str]
    facts: Sequence[tuple[str, str]]
    novelty: NDArray[np.float64] | None = None

    @classmethod
    def of(
        cls,
        files: Sequence[str],
        truth: NDArray[np.int64],
        probabilities: NDArray[np.float64],
        scores: Scores,
        reliabilities: Mapping[str, Reliability],
        notes: Sequence[str],
        speakers: Sequence[str] | None = None,
        starts: Sequence[float] | None = None,
        novelty: NDArray[np.float64] | None = None,
    ) -> Scored:
        """From predictions: files, true labels and novelty ``(n,)``, probabilities ``(n, labels)``."""
        labels = [one.label for one in scores.classes]
        found, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
        wrong = np.flatnonzero(found != truth)
        wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:_SHOWN_MISTAKES]
        mistakes = [
            (files[row], speakers[row] if speakers else None, labels[truth[row]], labels[found[row]], confidence[row])
            for row in wrong
        ]
        gap = float(confidence.mean() - (found == truth).mean())
        counts = count_by_speaker(truth, found == truth, speakers or [""] * len(truth), range(len(truth)), len(labels))
        intervals = interval_over_speakers(counts)
        facts = [
            ("UAR", f"{scores.uar:.3f}"),
            ("95 % interval", "{:.3f} to {:.3f}".format(*intervals.uar)),
            ("accuracy (WA)", f"{scores.wa:.3f}"),
            ("scored recordings", f"{scores.confusion.sum():,}"),
            ("confidence - accuracy", f"{gap:+.2f}"),
        ]
        recall_intervals = dict(zip(labels, intervals.recalls, strict=True))
        own_notes = [f"Without recordings, and not in the UAR: {', '.join(scores.absent)}."] if scores.absent else []
        of_speakers = _speaker_scores(truth, found, speakers, labels) if speakers else {}
        begins = [starts[row] if starts else 0.0 for row in wrong]
        shown = [*own_notes, *notes, f"The 95 % intervals are a bootstrap over {intervals.over}."]
        return cls(scores, reliabilities, mistakes, begins, recall_intervals, of_speakers, shown, facts, novelty)


def _speaker_scores(
    truth: NDArray[np.int64], found: NDArray[np.int64], speakers: Sequence[str], labels: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Recordings, UAR and WA of each known speaker."""
    names = np.array(speakers, dtype=object)
    scores = {name: score(truth[names == name], found[names == name], labels) for name in sorted({*speakers} - {""})}
    return {
        name: {"recordings": float(one.confusion.sum()), "uar": one.uar, "wa": one.wa} for name, one in scores.items()
    }


def score_sections(scored: Scored, make_clips: ClipMaker | None = None) -> list[Section]:
    """Confusion matrix, scores of each label, calibration, speakers and mistakes.

    Args:
        scored: the scores.
        make_clips: makes clips of the mistakes; None: there are none.
    """
    labels = [one.label for one in scored.scores.classes]
    matrix = scored.scores.confusion
    explanation = (
        "UAR is the mean of the recalls of all labels; WA is the share of correct predictions. Rows of the matrix are "
        "true labels, columns are predicted ones."
    )
    counts: list[list[Cell]] = [[label, *map(int, row)] for label, row in zip(labels, matrix, strict=True)]
    confused = Picture(
        "confusion",
        "Confusion matrix: number and share of the recordings of each true label",
        f"Confusion matrix of {len(labels)} labels; {scored.scores.uar_text}, WA {scored.scores.wa:.3f}",
        lambda: confusion(matrix, labels),
        Table("confusion", "Confusion matrix", ["true", *labels], counts),
    )
    sections = [Section("Scores", [explanation, *scored.notes], [confused], [_label_table(scored)])]
    data = [
        (name, int(n), float(mean), float(share))
        for name, one in scored.reliabilities.items()
        for n, mean, share in zip(one.counts, one.confidence, one.accuracy, strict=True)
        if n
    ]
    errors = ", ".join(f"{name} {one.error:.3f}" for name, one in scored.reliabilities.items())
    diagram = Picture(
        "reliability",
        f"Reliability diagram. Expected calibration error: {errors}",
        f"Share of correct predictions over confidence. Expected calibration error: {errors}",
        lambda: reliability_diagram(scored.reliabilities),
        Table("reliability", "Reliability", ["predictions", "recordings", "mean confidence", "correct"], data),
    )
    text = "Where a point is below the diagonal, predictions of that confidence are right less often than they claim."
    sections.append(Section("Confidence", [text], [diagram]))
    if scored.novelty is not None:
        of_novelty = np.histogram(scored.novelty, 20, (0.0, 1.0))[0]
        sections.append(Section("Novelty", [NOVELTY_TEXT], [share_histogram("novelty", of_novelty, "recordings")]))
    if len(scored.speakers) > 1:
        sections.append(_speaker_section(scored.speakers))
    return [*sections, _mistakes(scored, make_clips)]


NOVELTY_TEXT = (
    "Novelty is the distance to the training data: .5 is the median of the training data, .95 its 95th percentile. "
    "Recordings above .95 have the warning unfamiliar."
)


def share_histogram(name: str, counts: NDArray[np.int64], unit: str) -> Picture:
    """A histogram of values from 0 to 1, in bins of equal width.

    Args:
        name: of the values.
        counts: ``(bins,)``.
        unit: what is counted.
    """
    edges = np.linspace(0, 1, len(counts) + 1)
    shown = edges.round(2).tolist()
    most = counts.argmax()
    return Picture(
        name,
        f"{name.capitalize()} of the predictions",
        f"Histogram of the {name}; most {unit} are between {shown[most]} and {shown[most + 1]}",
        lambda: histogram(counts, edges, name, unit),
        Table(name, name, ["from", "to", unit], list(zip(shown[:-1], shown[1:], counts.tolist(), strict=True))),
    )


def _mistakes(scored: Scored, make_clips: ClipMaker | None) -> Section:
    columns = ["file", "speaker", "true", "predicted", "confidence"]
    rows: list[list[Cell]] = [list(one) for one in scored.mistakes]
    if not any(row[1] for row in rows):
        columns, rows = [*columns[:1], *columns[2:]], [[*row[:1], *row[2:]] for row in rows]
    caption = f"The {pluralize(len(rows), 'most confident wrong prediction')}" if rows else "No wrong predictions"
    table = Table("mistakes", caption, columns, rows)
    if make_clips is None:
        return Section("Mistakes", tables=[table])
    parts = []
    for place, (one, start_secs) in enumerate(zip(scored.mistakes[:_SHOWN_CLIPS], scored.starts, strict=False)):
        file, _, true, predicted, confidence = one
        caption = f"{file}: {true}, predicted as {predicted} with {confidence:.2f}"
        parts.append(Part(file, start_secs, caption, f"mistake-{place}"))
    made = make_clips(parts)
    text = [f"At most the first {CLIP_SECS:g} seconds of each recording are on this page."]
    if n_missing := made.count(None):
        text.append(f"{pluralize(n_missing, 'recording')} of {len(parts)} cannot be read.")
    return Section("Mistakes", text, tables=[table], clips=[one for one in made if one])


def _label_table(scored: Scored) -> Table:
    columns = ["label", "recordings", "recall", "precision", "F1"]
    rows: list[list[Cell]] = [
        [one.label, one.support, one.recall, one.precision, one.f1] for one in scored.scores.classes
    ]
    if scored.recall_intervals:
        columns[3:3] = ["from", "to"]
        for row in rows:
            row[3:3] = list(scored.recall_intervals.get(str(row[0])) or (None, None))
    caption = "Scores of each label" + ("; from and to: 95 % interval of the recall" if scored.recall_intervals else "")
    return Table("labels", caption, columns, rows)


def _speaker_section(speakers: Mapping[str, Mapping[str, float]]) -> Section:
    ranked = sorted(speakers.items(), key=lambda item: (item[1]["uar"], item[0]))
    rows = [(name, int(one["recordings"]), float(one["uar"]), float(one["wa"])) for name, one in ranked]
    caption = "Scores of each speaker, the lowest UAR first"
    if len(rows) > _LISTED_SPEAKERS:
        caption += f", {_LISTED_SPEAKERS} of {len(rows):,}"
    table = Table("speakers", caption, ["speaker", "recordings", "UAR", "WA"], rows[:_LISTED_SPEAKERS])
    shown = ranked
    if len(ranked) > _SHOWN_SPEAKERS:
        shown = [*ranked[: _SHOWN_SPEAKERS // 2], *ranked[-_SHOWN_SPEAKERS // 2 :]]
    names, values = [name for name, _ in shown], [float(one["uar"]) for _, one in shown]
    picture = Picture(
        "speaker-uar",
        "UAR of each speaker" + (", the worst and the best" if len(shown) < len(ranked) else ""),
        f"UAR from {values[0]:.3f} for speaker {names[0]} to {values[-1]:.3f} for speaker {names[-1]}",
        lambda: bars(names, values, "UAR"),
        table,
    )
    return Section("Speakers", pictures=[picture], tables=[table])


def secs_of(timestamps: pd.Series[str]) -> list[float]:
    """Timestamps in seconds."""
    seconds: list[float] = pd.to_timedelta(timestamps).dt.total_seconds().tolist()
    return seconds


def evaluation_page(folder: Path, make_clips: ClipMaker | None = None) -> Page:
    """The page of an evaluation; ``make_clips``: see `score_sections`.

    Raises:
        SourceError: a file of it is missing or damaged.
    """
    summary = read_own_json(folder / SCORES)
    try:
        labels = list(summary["classes"])
        table = pd.read_csv(folder / PREDICTIONS, dtype={"file": str, "speaker": str}, keep_default_na=False)
        truth = np.array([labels.index(label) for label in table.label])
        probabilities = table[[f"p_{label}" for label in labels]].to_numpy(float)
        files, speakers, starts = table.file.tolist(), table.speaker.tolist(), secs_of(table.start)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"{folder}: is damaged ({error}); run evaluate again with --restart") from error
    scores = score(truth, probabilities.argmax(axis=1), labels)
    found = {"predictions": reliability(probabilities, truth)}
    novelty = table.novelty.to_numpy(float) if "novelty" in table else None  # earlier versions did not store it
    scored = Scored.of(files, truth, probabilities, scores, found, [], speakers, starts, novelty)
    subtitle = f"split {summary['split']}, adapted to: {summary.get('adapt', 'none')}"
    facts = [*scored.facts, ("model", summary["model"][:12]), ("records", summary["records"][:12])]
    return Page(f"Evaluation: {folder.name}", subtitle, [], facts, score_sections(scored, make_clips))


def cross_validation_page(folder: Path, make_clips: ClipMaker | None = None) -> Page:
    """The page of a cross-validation; ``make_clips``: see `score_sections`.

    Raises:
        SourceError: it is missing, unfinished or damaged.
    """
    summary, found = read_validation_summary(folder), read_predictions(folder)
    table, labels = found.table, list(found.labels)
    truth = label_codes(table.label)
    probabilities = table[[f"p_{label}" for label in labels]].to_numpy(float)
    scores = score(truth, label_codes(table.emotion), labels)
    found_reliabilities = {"after calibration": reliability(probabilities, truth)}
    if before := summary.get("reliability", {}).get("before"):  # earlier versions did not store it
        found_reliabilities = {"before calibration": Reliability.from_json(before)} | found_reliabilities
    n_seeds = len(summary["seeds"])
    notes = [f"Counts are over all {n_seeds} seeds."] if n_seeds > 1 else []
    base = Scored.of(
        table.file.tolist(),
        truth,
        probabilities,
        scores,
        found_reliabilities,
        notes,
        table.speaker.tolist(),
        secs_of(table.start),
        table.novelty.to_numpy(float) if "novelty" in table else None,  # earlier versions did not store it
    )
    intervals = {label: one["recall_interval"] for label, one in summary["classes"].items()}
    scored = replace(base, recall_intervals=intervals, speakers=summary["speakers"])
    interval, over = summary["uar"]["interval"], summary["interval"]
    limits = f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else "-"
    facts = [
        ("UAR", f"{summary['uar']['mean']:.3f}"),
        ("95 % interval", limits),
        ("accuracy (WA)", f"{summary['wa']['mean']:.3f}"),
        ("recordings", f"{summary['recordings']:,}"),
        (over["over"], f"{over['units']:,}"),
        ("seeds", f"{n_seeds}"),
        ("calibration error", f"{summary['ece']['pooled']['after']:.3f}"),
        ("before calibration", f"{summary['ece']['pooled']['before']:.3f}"),
    ]
    sections = [*score_sections(scored, make_clips), *_training(folder)]
    return Page(f"Cross-validation: {folder.name}", summary["title"], [], facts, sections)


def _training(folder: Path) -> list[Section]:
    """The curves of all folds; none for a cross-validation of an earlier version, which did not store them."""
    if not (path := folder / HISTORY).exists():
        return []
    try:
        history = pd.read_csv(path, dtype={"fold": str, "part": str}, keep_default_na=False)
        histories: dict[str, list[pd.DataFrame]] = {part: [] for part in history.part.unique()}
        for _, own in history.groupby(["part", "seed", "fold"]):
            histories[own.part.iloc[0]].append(own[["epoch", "loss", "accuracy"]].astype(float))
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SourceError(f"{path}: damaged ({error}); run cross-validate again with --restart") from error
    return training_sections(histories)
