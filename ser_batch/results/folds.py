"""Out-of-fold predictions to the cross-validation folder, and back."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import SourceError
from ser_batch.files import open_atomically, write_json, write_rows
from ser_batch.results.plots import plot_confusion, plot_reliability
from ser_batch.results.scores import (
    ECE_BINS,
    Scores,
    expected_calibration_error,
    interval_over_speakers,
    reliability,
    score,
    tally,
    uar_text,
)
from ser_batch.results.tables import clock
from ser_batch.wording import counted

PREDICTIONS = "predictions.csv"
SCORES = "scores.json"
FOLDS = "folds"  # of an unfinished run
FOLD_FILES = frozenset(
    {PREDICTIONS, "scores.csv", "confusion_matrix.csv", "confusion_matrix.png", "reliability.png", SCORES}
)
_KEYS = ("file", "start", "end", "speaker", "label", "fold", "seed", "emotion", "confidence")
_FIGURES = ("uar", "wa", "precision", "recall", "f1", "ece_before", "ece_after")


@dataclass(frozen=True, slots=True)
class FoldPrediction:
    """What a network says of a recording that it was not trained on.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        speaker: empty where unknown.
        label: index of the true label.
        fold: name of the fold that held the recording out.
        seed: of the training.
        temperature: of the fold, fitted on others of its training side.
        raw: probability of each label as the network gave it, summing to 1.
        calibrated: the same at the fold's temperature.
    """

    file: str
    start_secs: float
    end_secs: float
    speaker: str
    label: int
    fold: str
    seed: int
    temperature: float
    raw: Sequence[float]
    calibrated: Sequence[float]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """The predictions of a cross-validation folder, a row for each recording and seed.

    Attributes:
        protocol: how they came about, as the cross-validation described itself.
        labels: in the order of the columns of ``probabilities``.
        recordings: (file, start, end) of each row; rows of several seeds share one.
        speakers: of each row; empty text where unknown.
        folds: of each row.
        seeds: int64 ``(n,)``.
        truth, predicted: int64 ``(n,)``, indices of labels.
        probabilities: float64 ``(n, labels)``, calibrated.
    """

    protocol: dict[str, Any]
    labels: tuple[str, ...]
    recordings: tuple[tuple[str, str, str], ...]
    speakers: tuple[str, ...]
    folds: tuple[str, ...]
    seeds: NDArray[np.int64]
    truth: NDArray[np.int64]
    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64]


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


class _Rows:
    """The columns of predictions, as arrays."""

    def __init__(self, predictions: Sequence[FoldPrediction], labels: Sequence[str]) -> None:
        self.labels = tuple(labels)
        self.recordings = [(one.file, clock(one.start_secs), clock(one.end_secs)) for one in predictions]
        self.speakers = np.array([one.speaker for one in predictions])
        self.folds = np.array([one.fold for one in predictions])
        self.seeds = np.array([one.seed for one in predictions], dtype=np.int64)
        self.truth = np.array([one.label for one in predictions], dtype=np.int64)
        self.raw = np.array([one.raw for one in predictions], dtype=np.float64)
        self.calibrated = np.array([one.calibrated for one in predictions], dtype=np.float64)
        self.predicted = self.calibrated.argmax(axis=1)
        # Temperatures are factors, so their mean is the geometric one.
        self.temperature = float(np.exp(np.mean([np.log(one.temperature) for one in predictions])))
        self.seed_values = sorted(set(self.seeds.tolist()))
        self.n_recordings = len(set(self.recordings))
        if not _each_once(self.recordings, self.seeds):
            raise ValueError("every seed must predict every recording once")

    def scores(self, chosen: NDArray[np.bool_]) -> Scores:
        return score(self.truth[chosen], self.predicted[chosen], self.labels)

    def errors(self, chosen: NDArray[np.bool_]) -> dict[str, float]:
        truth = self.truth[chosen]
        return {
            "ece_before": expected_calibration_error(self.raw[chosen], truth),
            "ece_after": expected_calibration_error(self.calibrated[chosen], truth),
        }


def _each_once(recordings: Sequence[tuple[str, str, str]], seeds: NDArray[np.int64]) -> bool:
    """Whether every seed has every recording, and none twice."""
    cells = set(zip(recordings, seeds.tolist(), strict=True))
    return len(cells) == len(recordings) == len(set(recordings)) * len(set(seeds.tolist()))


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


def _write_predictions(path: Path, predictions: Sequence[FoldPrediction], rows: _Rows) -> None:
    with open_atomically(path) as file:
        write_rows(file, [[*_KEYS, *(f"p_{label}" for label in rows.labels)]])
        for one, best in zip(predictions, rows.predicted, strict=True):
            row = [one.file, clock(one.start_secs), clock(one.end_secs), one.speaker, rows.labels[one.label]]
            row += [one.fold, str(one.seed), rows.labels[best], f"{one.calibrated[best]:.6f}"]
            write_rows(file, [row + [f"{probability:.6f}" for probability in one.calibrated]])


def _write_table(path: Path, lines: Sequence[_Line]) -> None:
    with open_atomically(path) as file:
        write_rows(file, [["scope", "name", "statistic", "seed", "recordings", "labels", *_FIGURES]])
        for line in lines:
            keys = [line.scope, line.name, line.statistic, "" if line.seed is None else str(line.seed)]
            shown = [f"{line.figures[name]:.6f}" if name in line.figures else "" for name in _FIGURES]
            labels = "" if line.labels is None else str(line.labels)
            write_rows(file, [[*keys, str(line.recordings), labels, *shown]])


def read_predictions(folder: Path) -> OutOfFold:
    """Read a finished cross-validation folder.

    Raises:
        SourceError: it is missing, unfinished, damaged or something else.
    """
    summary = _read_summary(folder)
    labels = tuple(summary["labels"])
    path = folder / PREDICTIONS
    try:
        with open(path, encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if tuple(reader.fieldnames or ()) != (*_KEYS, *(f"p_{label}" for label in labels)):
            raise ValueError("other columns")
        index = {label: at for at, label in enumerate(labels)}
        found = OutOfFold(
            summary["protocol"],
            labels,
            tuple((row["file"], row["start"], row["end"]) for row in rows),
            tuple(row["speaker"] for row in rows),
            tuple(row["fold"] for row in rows),
            np.array([int(row["seed"]) for row in rows], dtype=np.int64),
            np.array([index[row["label"]] for row in rows], dtype=np.int64),
            np.array([index[row["emotion"]] for row in rows], dtype=np.int64),
            np.array([[float(row[f"p_{label}"]) for label in labels] for row in rows], dtype=np.float64),
        )
        if not rows or not _each_once(found.recordings, found.seeds):
            raise ValueError("not one row for each recording and seed")
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise SourceError(f"{path}: damaged ({error}); run cross-validate again with --restart") from error
    return found


def _read_summary(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise SourceError(f"{folder}: no such folder; give one that cross-validate wrote")
    if not (folder / SCORES).exists():
        raise SourceError(
            f"{folder}: holds no {SCORES}, so it is no finished cross-validation; if it was cut short, run it again"
        )
    try:
        summary = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{folder / SCORES}: damaged ({error}); run cross-validate again with --restart") from error
    if not isinstance(summary, dict) or not {"title", "protocol", "labels", "speakers", "ece"} <= summary.keys():
        raise SourceError(
            f"{folder}: its {SCORES} is not of a cross-validation; give a folder that cross-validate wrote"
        )
    return summary


def cross_validation_lines(folder: Path) -> list[str]:
    """The figures of a finished cross-validation folder as a table for a terminal.

    Raises:
        SourceError: it is missing, unfinished or something else.
    """
    summary = _read_summary(folder)
    drawn, n_seeds = summary["interval"], len(summary["seeds"])
    lines = [
        f"{summary['title']}: {counted(summary['recordings'], 'recording')}, {counted(n_seeds, 'seed')}",
        f"       mean      sd  95 % interval over {counted(drawn['units'], drawn['over'][:-1])}",
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
    return uar_text(figures["uar"], figures.get("labels_scored", n_labels), n_labels)  # earlier versions kept no number


def _shown(limits: Sequence[float] | None) -> str:
    return "-" if limits is None else f"{limits[0]:.3f} to {limits[1]:.3f}"
