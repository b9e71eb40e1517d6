"""Out-of-fold predictions to the cross-validation folder, and back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_batch.evaluation.figures import plot_confusion, plot_reliability
from ser_batch.evaluation.fold_predictions import PREDICTIONS, SCORES, FoldPrediction, _Rows, _write_predictions
from ser_batch.evaluation.intervals import interval_over_speakers, tally
from ser_batch.evaluation.metrics import ECE_BINS, Scores, reliability, uar_text
from ser_batch.storage.writing import open_atomically, write_json, write_rows

FOLD_FILES = frozenset(
    {PREDICTIONS, "scores.csv", "confusion_matrix.csv", "confusion_matrix.png", "reliability.png", SCORES}
)

_FIGURES = ("uar", "wa", "precision", "recall", "f1", "ece_before", "ece_after")


def write_folds(
    folder: Path, predictions: Sequence[FoldPrediction], labels: Sequence[str], title: str, protocol: Mapping[str, Any]
) -> None:
    """Write the cross-validation folder, and last `SCORES`, which says that the rest is whole.

    Args:
        folder: exists, and holds nothing of an earlier run.
        predictions: one for each recording and seed, in the order in which they shall stand.
        labels: their names.
        title: the protocol in a few words, for pictures and terminals: ``leave one speaker out, 3 seeds``.
        protocol: all that decides about the figures, as a JSON object: by, folds, seeds, recipe, records, and so on.

    Raises:
        ValueError: a seed predicts a recording twice or not at all.
    """
    rows = _Rows(predictions, labels)
    _write_predictions(folder / PREDICTIONS, predictions, rows)
    pooled = {seed: rows.scores(rows.seeds == seed) for seed in rows.seed_values}
    confusion = np.sum([scores.confusion for scores in pooled.values()], axis=0)
    before, after = reliability(rows.raw, rows.truth), reliability(rows.calibrated, rows.truth)
    table = _tidy(rows, pooled)
    _write_table(folder / "scores.csv", table)
    with open_atomically(folder / "confusion_matrix.csv") as file:
        write_rows(file, [["true", *labels]])
        write_rows(file, [[label, *map(str, row)] for label, row in zip(labels, confusion, strict=True)])
    summary = _summary(rows, table) | {"title": title, "protocol": dict(protocol)}
    summary["ece"]["pooled"] = {"before": round(before.error, 6), "after": round(after.error, 6)}
    uar, wa = summary["uar"]["mean"], summary["wa"]["mean"]
    shown = uar_text(uar, summary["labels_scored"], len(labels))
    plot_confusion(confusion, labels, f"{title}\n{shown}, WA {wa:.3f}", folder / "confusion_matrix.png")
    plot_reliability(before, after, title, folder / "reliability.png")
    write_json(folder / SCORES, summary)


@dataclass(frozen=True)
class _Line:
    """A line of ``scores.csv``: the figures of one scope, in one seed or over all."""

    scope: str
    name: str
    statistic: str
    seed: int | None
    recordings: int
    figures: Mapping[str, float]
    labels: int | None = None  # that the UAR is over


def _tidy(rows: _Rows, pooled: Mapping[int, Scores]) -> list[_Line]:
    lines: list[_Line] = []
    for seed, whole in pooled.items():
        chosen = rows.seeds == seed
        figures = {"uar": whole.uar, "wa": whole.wa} | rows.errors(chosen)
        lines.append(_Line("pooled", "", "seed", seed, rows.n_recordings, figures, _n_scored(whole)))
        for scope, names in (("fold", rows.folds), ("speaker", rows.speakers)):
            for name in sorted(set(names[chosen].tolist()) - {""}):
                part = rows.scores(chosen & (names == name))
                figures = {"uar": part.uar, "wa": part.wa}
                n_recordings = int(part.confusion.sum())
                lines.append(_Line(scope, name, "seed", seed, n_recordings, figures, _n_scored(part)))
        for one in whole.classes:
            figures = {"precision": one.precision, "recall": one.recall, "f1": one.f1}
            lines.append(_Line("label", one.label, "seed", seed, one.support, figures))
    return lines + _over_seeds(lines)


def _n_scored(scores: Scores) -> int:
    return len(scores.classes) - len(scores.absent)


def _over_seeds(lines: Sequence[_Line]) -> list[_Line]:
    """Mean and standard deviation of all but folds, which may hold other recordings in each seed."""
    groups: dict[tuple[str, str], list[_Line]] = {}
    for line in lines:
        if line.scope != "fold":
            groups.setdefault((line.scope, line.name), []).append(line)
    over = []
    for (scope, name), group in groups.items():
        columns = {figure: [line.figures[figure] for line in group] for figure in group[0].figures}
        means = {figure: float(np.mean(values)) for figure, values in columns.items()}
        over.append(_Line(scope, name, "mean", None, group[0].recordings, means, group[0].labels))
        if len(group) > 1:
            spread = {figure: float(np.std(values, ddof=1)) for figure, values in columns.items()}
            over.append(_Line(scope, name, "sd", None, group[0].recordings, spread, group[0].labels))
    return over


def _summary(rows: _Rows, table: Sequence[_Line]) -> dict[str, Any]:
    """What `SCORES` says of the predictions themselves."""
    found = {(line.scope, line.name, line.statistic): line for line in table if line.statistic != "seed"}
    seeds = [line for line in table if line.scope == "pooled" and line.statistic == "seed"]
    tallies = tally(rows.truth, rows.predicted == rows.truth, rows.speakers.tolist(), rows.recordings, len(rows.labels))
    intervals = interval_over_speakers(tallies)
    spread = found.get(("pooled", "", "sd"))
    overall = {
        name: {
            "per_seed": {str(line.seed): round(line.figures[name], 6) for line in seeds},
            "mean": round(found["pooled", "", "mean"].figures[name], 6),
            "sd": None if spread is None else round(spread.figures[name], 6),
            "interval": _rounded(limits),
        }
        for name, limits in (("uar", intervals.uar), ("wa", intervals.wa))
    }
    classes = {
        label: {name: round(value, 6) for name, value in found["label", label, "mean"].figures.items()}
        | {"support": found["label", label, "mean"].recordings, "recall_interval": _rounded(limits)}
        for label, limits in zip(rows.labels, intervals.recalls, strict=True)
    }
    speakers = {
        line.name: {"recordings": line.recordings, "labels_scored": line.labels}
        | {name: round(value, 6) for name, value in line.figures.items()}
        for (scope, _, statistic), line in found.items()
        if (scope, statistic) == ("speaker", "mean")
    }
    figures = found["pooled", "", "mean"].figures
    alone = {when: round(figures[f"ece_{when}"], 6) for when in ("before", "after")}
    return overall | {
        "ece": {"bins": ECE_BINS, "mean_of_seeds": alone},
        "temperature": round(rows.temperature, 6),
        "labels": list(rows.labels),
        "labels_scored": found["pooled", "", "mean"].labels,
        "recordings": rows.n_recordings,
        "seeds": rows.seed_values,
        "interval": {"level": 0.95, "over": intervals.over, "units": intervals.units},
        "classes": classes,
        "speakers": speakers,
    }


def _rounded(limits: tuple[float, float] | None) -> list[float] | None:
    return None if limits is None else [round(limit, 6) for limit in limits]


def _write_table(path: Path, lines: Sequence[_Line]) -> None:
    with open_atomically(path) as file:
        write_rows(file, [["scope", "name", "statistic", "seed", "recordings", "labels", *_FIGURES]])
        for line in lines:
            keys = [line.scope, line.name, line.statistic, "" if line.seed is None else str(line.seed)]
            shown = [f"{line.figures[name]:.6f}" if name in line.figures else "" for name in _FIGURES]
            labels = "" if line.labels is None else str(line.labels)
            write_rows(file, [[*keys, str(line.recordings), labels, *shown]])


def _uar_shown(figures: Mapping[str, Any], n_labels: int) -> str:
    return uar_text(figures["uar"], figures.get("labels_scored", n_labels), n_labels)  # earlier versions kept no number
