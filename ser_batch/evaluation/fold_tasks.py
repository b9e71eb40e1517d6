"""Tasks of a cross-validation: extract features, train one fold, predict its held-out examples.

A fold's task writes a small file with its predictions and the history of its training, and does nothing if the file is
there.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ser_batch.corpus.folds import Fold, FoldRule, make_folds
from ser_batch.evaluation.fold_predictions import FoldPrediction
from ser_batch.evaluation.metrics import Scores, score
from ser_batch.inference.examples import predict_examples
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.reader import TrainValidation, row_selection
from ser_batch.storage.writing import write_json
from ser_batch.training.determinism import one_thread
from ser_batch.training.feature_store import FeatureStore
from ser_batch.training.recipes import Recipe, history_name
from ser_batch.training.train import train


@dataclass(frozen=True)
class FoldTask:
    """The training and prediction of one fold.

    Attributes:
        records: the record folder.
        folder: of the parts of the unfinished cross-validation.
        recipe, seed: of the training.
        by, n_folds, number: which fold.
        adapt: what the predictions are adapted to.
        init: a bundle whose weights are the start of the training.
    """

    records: Path
    folder: Path
    recipe: Recipe
    by: FoldRule
    n_folds: int | None
    seed: int
    number: int
    adapt: Adaptation
    init: Bundle | None

    @property
    def training(self) -> Path:
        """The folder of the training, while it is not finished."""
        return self.folder / f"seed-{self.seed}-fold-{self.number + 1:02d}"

    @property
    def features(self) -> Path:
        """The folder of extracted features, which all folds share."""
        return self.folder / "features"

    @property
    def path(self) -> Path:
        """The file with the predictions of the fold and the history of its training."""
        return self.training.with_name(f"{self.training.name}-done.json")


@dataclass(frozen=True)
class ExtractionTask:
    """The extraction of the features of all examples.

    Attributes:
        records: the record folder.
        folder: of the features.
        recipe: of the trainings.
        copy_seed: of the perturbed copies of the examples; None: the examples themselves.
    """

    records: Path
    folder: Path
    recipe: Recipe
    copy_seed: int | None


_HISTORY_COLUMNS = ["seed", "fold", "part", "epoch", "loss", "accuracy"]


class FoldResult(NamedTuple):
    """The predictions of the held-out examples of a fold, and the rows of `HISTORY` of its training."""

    predictions: list[FoldPrediction]
    history: pd.DataFrame


def fold_rows(records: RecordFolder) -> list[dict[str, str]]:
    """Label, speaker and SHA-256 of every example, for `make_folds`."""
    return [row for table in records.manifest("label", "speaker", "sha256") for row in table.to_pylist()]


def extract_features(task: ExtractionTask) -> None:
    """Extract the features of one copy of all examples, unless done before."""
    one_thread()
    records = open_records(task.records)
    everything = row_selection(records, "all folds", np.ones(records.n_examples(), np.bool_))
    FeatureStore(task.folder, records, task.recipe).load(everything, task.copy_seed)


def run_fold(task: FoldTask) -> tuple[str, Scores]:
    """Train one fold and predict its held-out examples, unless done before; return its name and scores."""
    records = open_records(task.records)
    if not task.path.exists():
        fold = make_folds(fold_rows(records), task.by, task.n_folds, task.seed)[task.number]
        found = _trained_and_predicted(task, records, fold)
        history = found.history.to_dict("list")
        write_json(task.path, {"predictions": [asdict(one) for one in found.predictions], "history": history})
        shutil.rmtree(task.training)
    done = read_fold(task).predictions
    return done[0].fold, score(
        [one.label for one in done], [int(np.argmax(one.probabilities)) for one in done], records.labels
    )


def read_fold(task: FoldTask) -> FoldResult:
    """The stored result of a finished fold."""
    stored = json.loads(task.path.read_text(encoding="utf-8"))
    return FoldResult(
        [FoldPrediction(**one) for one in stored["predictions"]],
        pd.DataFrame(stored["history"], columns=_HISTORY_COLUMNS),
    )


def _trained_and_predicted(task: FoldTask, records: RecordFolder, fold: Fold) -> FoldResult:
    one_thread()
    sides = {"by": task.by, "folds": task.n_folds, "fold": fold.name}
    bundle = train_fold(records, task.training, task.recipe, task.seed, fold, sides, task.init, task.features)
    histories = [
        pd.read_csv(task.training / history_name(part)).assign(seed=task.seed, fold=fold.name, part=part)
        for part in task.recipe.parts
    ]
    history = pd.concat(histories)[_HISTORY_COLUMNS]
    return FoldResult(predict_fold(bundle, records, task.seed, fold, task.adapt), history)


def train_fold(
    records: RecordFolder,
    folder: Path,
    recipe: Recipe,
    seed: int,
    fold: Fold,
    description: dict[str, Any],
    init: Bundle | None = None,
    features: Path | None = None,
) -> Bundle:
    """Train on the training side of a fold.

    Args:
        records: the examples.
        folder: of the bundle.
        recipe: of the training.
        seed: of the training.
        fold: of the examples.
        description: JSON that distinguishes this fold from others of the same records.
        init: a bundle whose weights are the start; None: the start is random.
        features: folder of the files of extracted features, which all folds of these records and this recipe share;
            None: within the bundle's folder.
    """
    training = row_selection(records, f"the training side of fold {fold.name}", fold.train)
    sides = TrainValidation(training, None, description)
    return train(records, folder, recipe, seed, sides=sides, init=init, features=features).bundle


def predict_fold(
    bundle: Bundle, records: RecordFolder, seed: int, fold: Fold, adapt: Adaptation
) -> list[FoldPrediction]:
    """The predictions of the held-out examples of a fold, not calibrated.

    Args:
        bundle: from `train_fold`.
        records: the examples.
        seed: of the training.
        fold: of the examples.
        adapt: what the predictions are adapted to.
    """
    held_out = row_selection(records, f"the held-out examples of fold {fold.name}", fold.test)
    return [
        FoldPrediction(
            one.prediction.file,
            one.prediction.start_secs,
            one.prediction.end_secs,
            one.speaker,
            one.label,
            fold.name,
            seed,
            one.prediction.probabilities,
            one.prediction.novelty,
        )
        for one in predict_examples(bundle, Classifier.of(bundle), records, held_out, adapt)
    ]
