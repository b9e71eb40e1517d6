"""Results as text for a terminal."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.evaluation.folders import read_validation_summary
from ser_batch.formatting import format_uar, pluralize
from ser_batch.inference.summaries import TableSummary

if TYPE_CHECKING:  # scikit-learn and pandas would slow down the start of infer
    from ser_batch.evaluation.compare import ModelComparison
    from ser_batch.evaluation.metrics import Scores

_SHOWN_SPEAKERS = 24
# Share of unfamiliar recordings from which a table gets a warning.
_MANY_UNFAMILIAR = 0.25


def comparison_lines(comparison: ModelComparison, name_a: str, name_b: str) -> list[str]:
    """A comparison as a table for a terminal; the last line is the conclusion."""
    shown = comparison.speakers[:_SHOWN_SPEAKERS]
    width = max(len("speaker"), *(len(pair.name) for pair in shown), 0)
    lines = [
        f"A: {name_a}, {pluralize(comparison.seeds_a, 'seed')}",
        f"B: {name_b}, {pluralize(comparison.seeds_b, 'seed')}",
        f"{pluralize(comparison.recordings, 'recording')}; "
        f"intervals and tests over {pluralize(comparison.units, comparison.over[:-1])}",
        f"{'':{width}}      A      B    B - A  95 % interval           p",
    ]
    for name, one in (("UAR", comparison.uar), ("WA", comparison.wa)):
        limits = f"{one.low:+.3f} to {one.high:+.3f}"
        lines.append(f"{name:{width}}  {one.a:.3f}  {one.b:.3f}  {one.b - one.a:+7.3f}  {limits:18}  {one.p:7.4f}")
    if shown:
        lines.append(f"{'speaker':{width}}  UAR A  UAR B    B - A   WA A   WA B    B - A  recordings")
    lines += [
        f"{pair.name:{width}}  {pair.uar_a:.3f}  {pair.uar_b:.3f}  {pair.uar_b - pair.uar_a:+7.3f}"
        f"  {pair.wa_a:.3f}  {pair.wa_b:.3f}  {pair.wa_b - pair.wa_a:+7.3f}  {pair.recordings:10d}"
        for pair in shown
    ]
    if len(comparison.speakers) > len(shown):
        lines.append(f"and {pluralize(len(comparison.speakers) - len(shown), 'more speaker')}")
    return [*lines, conclusion(comparison)]


def conclusion(comparison: ModelComparison) -> str:
    """One sentence on the difference of UAR, the primary score."""
    points = 100 * (comparison.uar.b - comparison.uar.a)
    low, high = 100 * comparison.uar.low, 100 * comparison.uar.high
    p = "p < .001" if comparison.uar.p < 0.001 else f"p = {comparison.uar.p:.3f}".replace("0.", ".")
    if comparison.uar.is_significant:
        better, sign = ("B", 1) if points > 0 else ("A", -1)
        limits = sorted((sign * low, sign * high))
        return (
            f"{better} is better by {abs(points):.1f} points UAR, 95 % interval {limits[0]:.1f} to {limits[1]:.1f}, "
            f"{p} over {pluralize(comparison.units, comparison.over[:-1])}"
        )
    few = "; fewer than 6 cannot show one" if comparison.units < 6 else ""
    return (
        f"no difference shown: B - A is {points:+.1f} points UAR, 95 % interval {low:+.1f} to {high:+.1f}, "
        f"{p} over {pluralize(comparison.units, comparison.over[:-1])}{few}"
    )


def report_text(scores: Scores) -> str:
    """The classification report, for a terminal."""
    width = max(len("recordings"), *(len(one.label) for one in scores.classes))
    lines = [f"{'':{width}}  precision  recall      f1  support"]
    lines += [
        f"{one.label:{width}}  {one.precision:9.3f}  {one.recall:6.3f}  {one.f1:6.3f}  {one.support:7d}"
        for one in scores.classes
    ]
    absent = f" (none of {', '.join(scores.absent)} in this split)" if scores.absent else ""
    n_recordings = pluralize(int(scores.confusion.sum()), "recording")
    lines.append(f"{scores.uar_text}{absent}   WA {scores.wa:.3f}   {n_recordings}")
    return "\n".join(lines)


def cross_validation_lines(folder: Path) -> list[str]:
    """The scores of a finished cross-validation folder as a table for a terminal.

    Raises:
        SourceError: it is missing, unfinished or not a cross-validation.
    """
    summary = read_validation_summary(folder)
    resampled, n_seeds = summary["interval"], len(summary["seeds"])
    lines = [
        f"{summary['title']}: {pluralize(summary['recordings'], 'recording')}, {pluralize(n_seeds, 'seed')}",
        f"       mean      sd  95 % interval over {pluralize(resampled['units'], resampled['over'][:-1])}",
    ]
    n_labels = len(summary["labels"])
    for name in ("uar", "wa"):
        figures = summary[name]
        spread = "-" if figures["sd"] is None else f"{figures['sd']:.3f}"
        lines.append(f"{name.upper():4} {figures['mean']:6.3f}  {spread:>6}  {_shown(figures['interval'])}")
    if summary.get("labels_scored", n_labels) < n_labels:
        lines[2] += f"  over {summary['labels_scored']} of {n_labels} labels"
    for name, how in (("pooled", "all seeds together"), ("mean_of_seeds", "mean of each seed's own"))[
        : min(n_seeds, 2)
    ]:
        error = summary["ece"][name]
        lines.append(f"ECE  {error['before']:6.3f} before calibration, {error['after']:.3f} after, {how}")
    width = max(len("label"), *map(len, summary["labels"]))
    lines.append(f"{'label':{width}}  precision      f1  recall  {'95 % interval':14}  recordings")
    lines += [
        f"{label:{width}}  {one['precision']:9.3f}  {one['f1']:6.3f}  {one['recall']:6.3f}"
        f"  {_shown(one['recall_interval']):14}  {one['support']:10d}"
        for label, one in ((label, summary["classes"][label]) for label in summary["labels"])
    ]
    if len(summary["speakers"]) > 1:
        by_uar = sorted(summary["speakers"].items(), key=lambda item: item[1]["uar"])
        (worst, low), (best, high) = by_uar[0], by_uar[-1]
        shown = [_uar_shown(figures, n_labels) for figures in (low, high)]
        lines.append(f"worst speaker {worst}: {shown[0]}; best speaker {best}: {shown[1]}")
    return lines


def _uar_shown(figures: Mapping[str, Any], n_labels: int) -> str:
    return format_uar(figures["uar"], figures.get("labels_scored", n_labels), n_labels)  # absent in older folders


def _shown(limits: Sequence[float] | None) -> str:
    return "-" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}"


_LISTED_REASONS = 10


def table_lines(summary: TableSummary, out: str, audio_secs: float, secs: float) -> list[str]:
    """The counts of a table for a terminal.

    Args:
        summary: counts of the whole table.
        out: path of the table.
        audio_secs: duration of the recordings predicted by this run.
        secs: duration of this run.
    """
    lines = []
    unfamiliar, predicted = summary.warnings["unfamiliar"], summary.files - summary.errors
    if many_unfamiliar(unfamiliar, predicted):
        lines.append(
            f"warning: {unfamiliar:,} of {pluralize(predicted, 'recording')} are unlike the training data: do not "
            "trust these predictions"
        )
    if summary.formulas and out.endswith(".csv"):
        names = pluralize(summary.formulas, "name")
        lines.append(f"warning: {names} with =, +, - or @ at the start; import into a spreadsheet as text")
    rows = pluralize(summary.rows, "row")
    if summary.rows != summary.files:
        rows += f" of {pluralize(summary.files, 'recording')}"
    lines.append(f"{out}: {rows}, {summary.errors:,} of them errors, in {secs:.1f} s")
    now = "" if math.isclose(audio_secs, summary.audio_secs) else f", {duration_text(audio_secs)} of it now"
    speed = f"{now}, {audio_secs / secs:,.0f} x real time" if audio_secs else ""
    lines.append(f"  audio     {duration_text(summary.audio_secs)}{speed}")
    if summary.emotions:
        n_rows = summary.emotions.total()
        shares = [f"{emotion} {count / n_rows:.1%}" for emotion, count in _ranked(summary.emotions)]
        lines.append(f"  emotions  {', '.join(shares)}")
    if summary.warnings:
        lines.append(f"  warnings  {', '.join(f'{code} {count:,}' for code, count in _ranked(summary.warnings))}")
    counts = _ranked(Counter({example or form: count for form, (count, example) in summary.reasons.items()}))
    reasons = [f"{count:,} x {reason}" for reason, count in counts[:_LISTED_REASONS]]
    if left := counts[_LISTED_REASONS:]:
        reasons.append(f"{sum(count for _, count in left):,} for {pluralize(len(left), 'other reason')}")
    return lines + [f"  {'' if index else 'errors':10}{reason}" for index, reason in enumerate(reasons)]


def many_unfamiliar(unfamiliar: int, predicted: int) -> bool:
    """Whether so many of the predictions are unlike the training data that a warning stands first."""
    return unfamiliar > _MANY_UNFAMILIAR * predicted


def duration_text(secs: float) -> str:
    """A duration in seconds, minutes or hours."""
    if secs < 60:
        return f"{secs:.1f} s"
    return f"{secs / 60:.1f} min" if secs < 3600 else f"{secs / 3600:,.1f} h"


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
