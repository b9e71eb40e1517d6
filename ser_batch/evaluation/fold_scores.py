"""Scores of out-of-fold predictions, and the files of a cross-validation folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pandas import DataFrame, concat

from ser_batch.evaluation.figures import plot_confusion, plot_reliability
from ser_batch.evaluation.fold_predictions import (
    RECORDING,
    FoldPrediction,
    label_codes,
    predictions_table,
    write_table,
)
from ser_batch.evaluation.folders import PREDICTIONS, SCORES
from ser_batch.evaluation.intervals import count_by_speaker, interval_over_speakers
from ser_batch.evaluation.metrics import ECE_BINS, expected_calibration_error, reliability, score
from ser_batch.formatting import format_uar
from ser_batch.models.calibration import apply_temperature, fit_temperature
from ser_batch.storage.writing import write_json

FOLD_FILES = frozenset(
    {PREDICTIONS, "scores.csv", "confusion_matrix.csv", "confusion_matrix.png", "reliability.png", SCORES}
)

_FIGURES = ["uar", "wa", "precision", "recall", "f1", "ece_before", "ece_after"]
_COLUMNS = ["scope", "name", "statistic", "seed", "recordings", "labels", *_FIGURES]


def write_folds(
    folder: Path, predictions: Sequence[FoldPrediction], labels: Sequence[str], title: str, protocol: Mapping[str, Any]
) -> None:
    """Write the files of a cross-validation folder; `SCORES` is written last and marks the folder as complete.

    Args:
        folder: existing folder without results of an earlier run.
        predictions: one for each recording and seed, in the order of the rows to write.
        labels: their names.
        title: short description for plots and terminals: ``leave one speaker out, 3 seeds``.
        protocol: all settings that affect the scores, as a JSON object: by, folds, seeds, recipe, records, ….

    Raises:
        ValueError: a seed predicts a recording twice or not at all.
    """
    raw = np.array([one.probabilities for one in predictions])
    temperatures = cross_fitted_temperatures(predictions)
    calibrated = np.concatenate([apply_temperature([row], one) for row, one in zip(raw, temperatures, strict=True)])
    table = predictions_table(predictions, calibrated, labels)
    write_table(folder / PREDICTIONS, table)
    truth = label_codes(table.label)
    before, after = reliability(raw, truth), reliability(calibrated, truth)
    lines = _scores_by_seed(table, raw, calibrated, labels)
    over_seeds = _over_seeds(lines)
    write_table(folder / "scores.csv", concat([lines, over_seeds])[_COLUMNS])
    confusion = score(truth, label_codes(table.emotion), labels).confusion
    write_table(
        folder / "confusion_matrix.csv", DataFrame(confusion, list(labels), list(labels)).reset_index(names="true")
    )
    summary = _summary(table, lines, over_seeds, labels) | {"title": title, "protocol": dict(protocol)}
    # Temperatures are factors, so the geometric mean is used.
    summary["temperature"] = round(float(np.exp(np.mean(np.log(temperatures)))), 6)
    summary["ece"]["pooled"] = {"before": round(before.error, 6), "after": round(after.error, 6)}
    summary["reliability"] = {"before": before.to_json(), "after": after.to_json()}
    uar, wa = summary["uar"]["mean"], summary["wa"]["mean"]
    shown = format_uar(uar, summary["labels_scored"], len(labels))
    plot_confusion(confusion, labels, f"{title}\n{shown}, WA {wa:.3f}", folder / "confusion_matrix.png")
    plot_reliability(before, after, title, folder / "reliability.png")
    write_json(folder / SCORES, summary)


def cross_fitted_temperatures(predictions: Sequence[FoldPrediction]) -> list[float]:
    """The temperature of each prediction, fitted to the predictions of all other folds with the same seed; 1: no fit.

    The networks of the other folds were trained with the recordings of this fold, but none of these recordings is among
    the predictions that its temperature is fitted to.
    """
    frame = DataFrame({"fold": [one.fold for one in predictions], "seed": [one.seed for one in predictions]})
    probabilities = np.array([one.probabilities for one in predictions])
    truth = np.array([one.label for one in predictions])
    speakers = np.array([one.speaker for one in predictions])
    found = np.ones(len(predictions))
    for (fold, seed), part in frame.groupby(["fold", "seed"]):
        others = ((frame.seed == seed) & (frame.fold != fold)).to_numpy()
        known = speakers[others].tolist()
        found[part.index] = fit_temperature(probabilities[others], truth[others], known) or 1.0
    temperatures: list[float] = found.tolist()
    return temperatures


def _scores_by_seed(
    table: DataFrame, raw: NDArray[np.float64], calibrated: NDArray[np.float64], labels: Sequence[str]
) -> DataFrame:
    """The lines of ``scores.csv`` for each seed: pooled, then by fold, speaker and label."""
    pooled, by_label = [], []
    for seed, part in table.groupby("seed"):
        truth = label_codes(part.label)
        found = score(truth, label_codes(part.emotion), labels)
        pooled.append(
            {
                "seed": seed,
                "recordings": len(part),
                "labels": len(labels) - len(found.absent),
                "uar": found.uar,
                "wa": found.wa,
                "ece_before": expected_calibration_error(raw[part.index], truth),
                "ece_after": expected_calibration_error(calibrated[part.index], truth),
            }
        )
        by_label.append(DataFrame(found.classes).assign(seed=seed))
    parts = {
        "pooled": DataFrame(pooled).assign(name=""),
        "fold": _scores_by(table, "fold"),
        "speaker": _scores_by(table, "speaker"),
        "label": concat(by_label).rename(columns={"label": "name", "support": "recordings"}),
    }
    lines = concat([part.assign(scope=scope) for scope, part in parts.items() if len(part)])
    lines = lines.astype(dict.fromkeys(("seed", "recordings", "labels"), "Int64")).assign(statistic="seed")
    return lines.sort_values("seed", kind="stable")


def _scores_by(table: DataFrame, column: str) -> DataFrame:
    """UAR and WA for each seed and each non-empty value of a column."""
    keys = ["seed", column]
    known = table[table[column] != ""].assign(correct=table.label == table.emotion)
    recalls = known.groupby([*keys, "label"], observed=True).correct.mean().groupby(keys)
    correct = known.groupby(keys).correct
    scores = {"recordings": correct.size(), "labels": recalls.size(), "uar": recalls.mean(), "wa": correct.mean()}
    return DataFrame(scores).reset_index(names=["seed", "name"])


def _over_seeds(lines: DataFrame) -> DataFrame:
    """Mean and standard deviation over seeds; without folds, because their recordings may differ between seeds."""
    groups = lines[lines.scope != "fold"].groupby(["scope", "name"], sort=False)
    statistics = groups[_FIGURES].agg(["mean", "std"]).stack(future_stack=True)
    statistics = statistics.rename(index={"std": "sd"}).rename_axis(["scope", "name", "statistic"]).reset_index()
    if lines.seed.nunique() == 1:
        statistics = statistics[statistics.statistic == "mean"]
    counts = groups[["recordings", "labels"]].first().reset_index()
    return statistics.merge(counts, on=["scope", "name"], how="left")


def _summary(table: DataFrame, lines: DataFrame, over_seeds: DataFrame, labels: Sequence[str]) -> dict[str, Any]:
    """The content of `SCORES` that depends only on the predictions."""
    recordings = table.groupby(RECORDING).ngroup()
    correct = table.label == table.emotion
    intervals = interval_over_speakers(
        count_by_speaker(label_codes(table.label), correct, table.speaker, recordings, len(labels))
    )
    pooled = lines[lines.scope == "pooled"]
    means = over_seeds[over_seeds.statistic == "mean"].set_index("name").round(6)
    overall = means[means.scope == "pooled"].iloc[0]
    figures = {
        name: {
            "per_seed": dict(zip(pooled.seed.astype(str), pooled[name].round(6), strict=True)),
            "mean": overall[name],
            "sd": None if len(pooled) == 1 else round(float(pooled[name].std()), 6),
            "interval": _rounded(limits),
        }
        for name, limits in (("uar", intervals.uar), ("wa", intervals.wa))
    }
    by_label, by_speaker = means[means.scope == "label"], means[means.scope == "speaker"]
    classes = by_label[["precision", "recall", "f1", "recordings"]].rename(columns={"recordings": "support"})
    speakers = by_speaker[["recordings", "labels", "uar", "wa"]].rename(columns={"labels": "labels_scored"})
    return figures | {
        "ece": {"bins": ECE_BINS, "mean_of_seeds": {"before": overall.ece_before, "after": overall.ece_after}},
        "labels": list(labels),
        "labels_scored": int(overall["labels"]),
        "recordings": int(overall["recordings"]),
        "seeds": pooled.seed.tolist(),
        "interval": {"level": 0.95, "over": intervals.over, "units": intervals.units},
        "classes": {
            label: row | {"recall_interval": _rounded(limits)}
            for (label, row), limits in zip(classes.to_dict("index").items(), intervals.recalls, strict=True)
        },
        "speakers": speakers.to_dict("index"),
    }


def _rounded(limits: tuple[float, float] | None) -> list[float] | None:
    return None if limits is None else [round(limit, 6) for limit in limits]
