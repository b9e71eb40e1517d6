"""Made out-of-fold predictions: by speakers that differ in how well they are understood."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ser_batch.evaluation.fold_predictions import FoldPrediction
from ser_batch.evaluation.fold_scores import write_folds
from ser_batch.models.calibration import apply_temperature

LABELS = ("anger", "fear", "joy")
PROTOCOL = {"by": "speaker", "folds": 6, "normalise": "train"}


def made_predictions(
    seeds: Iterable[int] = (0, 1), skill: float = 1.5, n: int = 120, n_speakers: int = 6
) -> list[FoldPrediction]:
    """The same recordings for the same ``n`` and ``n_speakers``; twice too sure before calibration."""
    corpus = np.random.default_rng(7)
    truth = corpus.integers(0, 3, n)
    speaker = corpus.integers(0, n_speakers, n)
    clearness = corpus.normal(0, 0.7, n_speakers)
    predictions = []
    for seed in seeds:
        logits = np.random.default_rng([11, seed]).normal(size=(n, 3))
        logits[np.arange(n), truth] += skill + clearness[speaker]
        fair = apply_temperature(np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), 1 / skill)
        raw = apply_temperature(fair, 0.5)
        predictions += [
            FoldPrediction(f"{at:03d}.wav", 0.0, 2.5, f"{who:02d}", int(label), f"{who:02d}", seed, sharp, 0.5)
            for at, (who, label, sharp) in enumerate(zip(speaker, truth, raw, strict=True))
        ]
    return predictions


def certain(
    predicted: Iterable[int], truth: Iterable[int], speakers: Iterable[str], seed: int = 0
) -> list[FoldPrediction]:
    """Predictions of which only the label matters."""
    rows = np.eye(3) * 0.7 + 0.1
    return [
        FoldPrediction(f"{at:03d}.wav", 0.0, 1.0, speaker, label, speaker or "1", seed, rows[guess], 0.5)
        for at, (guess, label, speaker) in enumerate(zip(predicted, truth, speakers, strict=True))
    ]


def written(
    folder: Path,
    predictions: list[FoldPrediction],
    protocol: dict[str, object] = PROTOCOL,
    labels: tuple[str, ...] = LABELS,
) -> Path:
    folder.mkdir()
    write_folds(folder, predictions, labels, "leave one speaker out", protocol)
    return folder
