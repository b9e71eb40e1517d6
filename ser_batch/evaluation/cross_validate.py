"""Cross-validation: every example is predicted by a network that was not trained on its speaker.

Each fold and seed is one task, which continues after a kill and writes a small file with its predictions. Functionals
are extracted once for all folds. The held-out examples are used only for the final score. The probabilities of a fold
are calibrated with the predictions of the other folds: see
`ser_batch.evaluation.fold_scores.cross_fitted_temperatures`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import tensorflow as tf

from ser_batch.corpus.folds import Fold, FoldRule, make_folds
from ser_batch.errors import OutputError, TrainingError, UsageError
from ser_batch.evaluation.figures import plot_confusion
from ser_batch.evaluation.fold_predictions import CrossValidation, FoldPrediction, write_table
from ser_batch.evaluation.fold_scores import FOLD_FILES, write_folds
from ser_batch.evaluation.folders import FOLDS, HISTORY, SCORES, read_validation_summary
from ser_batch.evaluation.metrics import Scores, score
from ser_batch.inference.examples import predict_examples
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.models.networks.options import check_normalisation
from ser_batch.records.folder import RecordFolder, check_no_repeats, open_records
from ser_batch.records.reader import TrainValidation, row_selection
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.resources import usable_memory
from ser_batch.storage.outputs import OutputKind, open_output, read_own_json
from ser_batch.storage.writing import write_json
from ser_batch.training.determinism import one_thread
from ser_batch.training.feature_store import FeatureStore, copy_seeds
from ser_batch.training.recipes import Recipe, history_name, recipe_title
from ser_batch.training.train import train

# Receives the numbers of done and of all tasks, and the step.
OnProgress = Callable[[int, int, str], Any]

# Memory of a worker: TensorFlow, activations of a training step, and the examples.
_TRAINING_BYTES = 2 << 30


@dataclass(frozen=True)
class CrossValidationOptions:
    """Options of a cross-validation: folds and seeds.

    Attributes:
        by: ``speaker``: the examples of a speaker are in one fold; ``random``: those of a recording are.
        n_folds: number of folds; None: one for each speaker (leave one speaker out), or ten random folds.
        n_seeds: number of repetitions, with the seeds ``seed``, ``seed + 1``, ….
        seed: the first seed.
        adapt: what the predictions are adapted to; the batch is the held-out side of a fold.
        init: a bundle whose weights are the start of each training; None: the start is random.
    """

    by: FoldRule
    n_folds: int | None
    n_seeds: int
    seed: int
    adapt: Adaptation = "none"
    init: Bundle | None = None

    def to_json(self) -> dict[str, Any]:
        """All values as a JSON object."""
        return {
            "by": self.by,
            "folds": self.n_folds,
            "seeds": self.n_seeds,
            "first_seed": self.seed,
            "adapt": self.adapt,
            "init": self.init and self.init.fingerprint,
        }

    def title(self, recipe: Recipe) -> str:
        """Short description of recipe and folds, for tables and plots."""
        how = {"speaker": "speaker-grouped folds", "random": "random folds"}[self.by]
        if self.n_folds is None and self.by == "speaker":
            how = "leave one speaker out"
        else:
            how = f"{self.n_folds or 10} {how}"
        start = f", starting from {self.init.short_fingerprint}" if self.init else ""
        return f"recipe {recipe_title(recipe.to_json())}, {how}{start}{_ADAPTED[self.adapt]}"


_ADAPTED: dict[Adaptation, str] = {
    "none": "",
    "batch": ", adapted to the held-out, unlabelled recordings as one batch",
    "speakers": ", adapted to each speaker's held-out, unlabelled recordings",
    "voices": ", adapted to voices found in the held-out, unlabelled recordings",
}


@dataclass(frozen=True)
class FoldReport:
    """Progress report of a finished fold.

    Attributes:
        name, seed: of the fold.
        scores: on its held-out examples.
        done, of: number of finished tasks, and of all tasks (folds times seeds).
    """

    name: str
    seed: int
    scores: Scores
    done: int
    of: int

    def line(self) -> str:
        """The report as one line of text."""
        figures = f"{self.scores.uar_text}, WA {self.scores.wa:.3f}"
        return f"fold {self.name}, seed {self.seed}: {figures} ({self.done} of {self.of})"


@dataclass(frozen=True)
class _FoldTask:
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
    def path(self) -> Path:
        """The file with the predictions of the fold and the history of its training."""
        return self.training.with_name(f"{self.training.name}-done.json")


@dataclass(frozen=True)
class _ExtractionTask:
    records: Path
    folder: Path
    recipe: Recipe
    copy_seed: int | None


_HISTORY_COLUMNS = ["seed", "fold", "part", "epoch", "loss", "accuracy"]


class _FoldResult(NamedTuple):
    """The predictions of the held-out examples of a fold, and the rows of `HISTORY` of its training."""

    predictions: list[FoldPrediction]
    history: pd.DataFrame


# A cross-validation folder; while unfinished, its parts are one file for each finished fold.
_KIND = OutputKind(
    "a cross-validation",
    SCORES,
    FOLDS,
    (FOLD_FILES | {HISTORY}).__contains__,
    lambda folder: read_own_json(folder / SCORES).get("protocol", {}),
)


def parallel_folds(records: RecordFolder, workers: int) -> int:
    """The number of folds to train in parallel, limited by workers and memory; 1 on a GPU."""
    if tf.config.list_physical_devices("GPU"):
        return 1
    each = _TRAINING_BYTES + 2 * sum(shard.bytes for shard in records.shards())
    return int(max(1, min(workers, usable_memory() // each)))


def cross_validate(
    records: RecordFolder,
    folder: Path,
    recipe: Recipe,
    options: CrossValidationOptions,
    engine: Engine,
    restart: bool = False,
    on_fold: Callable[[FoldReport], None] = lambda report: None,
    on_progress: OnProgress = lambda done, total, step: None,
) -> CrossValidation:
    """Train and score all folds, and write the cross-validation folder; continue an interrupted run.

    Args:
        records: a finished record folder; the examples of all splits are used.
        folder: output folder; created if absent.
        recipe: for the training of each fold.
        options: folds and seeds.
        engine: runs the folds; its workers need memory for TensorFlow.
        restart: discard the results of an earlier run in the folder.
        on_fold: called after each fold.
        on_progress: called with the numbers of done and of all tasks, and the step: the features of the examples and
            of their copies are extracted; then folds are trained, with the step empty.

    Returns:
        The finished cross-validation.

    Raises:
        TrainingError: a fold cannot be trained, or its worker crashed.
        OutputError: the folder is in use, not writable, or contains other files or another cross-validation.
    """
    identity = options.to_json() | {
        "normalise": recipe.normalise,
        "records": records.fingerprint,
        "recipe": recipe.to_json(),
    }
    check_normalisation(recipe)
    _check_adaptation(options, recipe)
    _check_init(options.init, records)
    check_no_repeats(records)
    tasks = _tasks(records, folder, recipe, options)
    with open_output(folder, _KIND, identity, restart) as output:
        if output.is_finished:
            if missing := sorted(name for name in FOLD_FILES if not (folder / name).exists()):
                raise OutputError(f"{folder / missing[0]}: is missing; give --restart to run again")
            return CrossValidation(folder, read_validation_summary(folder), was_finished=True)
        _try_pictures(output.parts, records.labels, options.title(recipe))
        _extract(records, tasks, engine, on_progress)
        on_progress(0, len(tasks), "")
        _run_folds(tasks, engine, on_fold, on_progress)
        folds = [_read_fold(task) for task in tasks]
        predictions = [one for fold in folds for one in fold.predictions]
        write_table(folder / HISTORY, pd.concat([fold.history for fold in folds]))
        write_folds(folder, predictions, records.labels, options.title(recipe), identity)
        output.finish()
        return CrossValidation(folder, read_validation_summary(folder))


def _check_adaptation(options: CrossValidationOptions, recipe: Recipe) -> None:
    if options.adapt != "none" and recipe.normalise != "speaker":
        raise UsageError(f"--adapt {options.adapt}: the recipe needs normalise = speaker; it has {recipe.normalise}")
    if options.adapt in ("batch", "voices") and options.by == "speaker" and options.n_folds is None:
        raise UsageError(f"--adapt {options.adapt}: each fold holds out one speaker only; give --folds N")


def _check_init(init: Bundle | None, records: RecordFolder) -> None:
    if init is not None and init.training.get("records") == records.fingerprint:
        raise UsageError(
            f"--init {init.path}: was trained on these records, so that no speaker would be held out; give a bundle "
            "that was trained on others"
        )


def _try_pictures(scratch: Path, labels: Sequence[str], title: str) -> None:
    """Draw a trial plot before training, so that plotting problems are found early.

    Raises:
        OutputError: plotting fails.
    """
    try:
        plot_confusion(np.eye(len(labels), dtype=np.int64), labels, title, scratch / "trial.png")
    except (ImportError, RuntimeError, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise OutputError(f"{scratch.parent}: plots cannot be drawn ({detail}); install matplotlib again") from error


def fold_rows(records: RecordFolder) -> list[dict[str, str]]:
    """Label, speaker and SHA-256 of every example, for `make_folds`."""
    return [row for table in records.manifest("label", "speaker", "sha256") for row in table.to_pylist()]


def _tasks(records: RecordFolder, folder: Path, recipe: Recipe, options: CrossValidationOptions) -> list[_FoldTask]:
    rows = fold_rows(records)
    return [
        _FoldTask(
            records.path.absolute(),
            folder.absolute() / FOLDS,
            recipe,
            options.by,
            options.n_folds,
            seed,
            number,
            options.adapt,
            options.init,
        )
        for seed in range(options.seed, options.seed + options.n_seeds)
        for number in range(len(make_folds(rows, options.by, options.n_folds, seed)))
    ]


def _extract(records: RecordFolder, tasks: list[_FoldTask], engine: Engine, on_progress: OnProgress) -> None:
    """Extract the features that the unfinished folds use, unless done before."""
    left = {task.seed: task for task in tasks if not task.path.exists()}
    if not left or tasks[0].recipe.network != "functionals":
        return
    folder, recipe = _features_folder(tasks[0]), tasks[0].recipe
    epochs = range(1, recipe.epochs + 1)
    copies = {one for seed in left for one in copy_seeds(recipe, seed, epochs)}
    extractions = [_ExtractionTask(records.path.absolute(), folder, recipe, one) for one in (None, *sorted(copies))]
    step = "extracting features"
    on_progress(0, len(extractions), step)
    for done, outcome in enumerate(engine.map(extract_features, extractions), 1):
        if outcome.failure is not None:
            raise TrainingError(
                f"features: {outcome.failure}; run the same command again to continue, with fewer --workers if memory "
                "was short"
            )
        on_progress(done, len(extractions), step)


def _features_folder(task: _FoldTask) -> Path:
    return task.folder / "features"


def extract_features(task: _ExtractionTask) -> None:
    """Extract the features of one copy of all examples, unless done before."""
    one_thread()
    records = open_records(task.records)
    everything = row_selection(records, "all folds", np.ones(records.n_examples(), np.bool_))
    FeatureStore(task.folder, records, task.recipe).load(everything, task.copy_seed)


def _run_folds(
    tasks: list[_FoldTask], engine: Engine, on_fold: Callable[[FoldReport], None], on_progress: OnProgress
) -> None:
    for done, outcome in enumerate(engine.map(run_fold, tasks), 1):
        task = outcome.task
        if outcome.result is None:
            raise TrainingError(
                f"fold {task.number + 1} of seed {task.seed}: {outcome.failure}; run the same command again to "
                "continue, with fewer --workers if memory was short"
            )
        name, scores = outcome.result
        on_fold(FoldReport(name, task.seed, scores, done, len(tasks)))
        on_progress(done, len(tasks), "")


def run_fold(task: _FoldTask) -> tuple[str, Scores]:
    """Train one fold and predict its held-out examples, unless done before; return its name and scores."""
    records = open_records(task.records)
    if not task.path.exists():
        fold = make_folds(fold_rows(records), task.by, task.n_folds, task.seed)[task.number]
        found = _trained_and_predicted(task, records, fold)
        history = found.history.to_dict("list")
        write_json(task.path, {"predictions": [asdict(one) for one in found.predictions], "history": history})
        shutil.rmtree(task.training)
    done = _read_fold(task).predictions
    return done[0].fold, score(
        [one.label for one in done], [int(np.argmax(one.probabilities)) for one in done], records.labels
    )


def _read_fold(task: _FoldTask) -> _FoldResult:
    stored = json.loads(task.path.read_text(encoding="utf-8"))
    return _FoldResult(
        [FoldPrediction(**one) for one in stored["predictions"]],
        pd.DataFrame(stored["history"], columns=_HISTORY_COLUMNS),
    )


def _trained_and_predicted(task: _FoldTask, records: RecordFolder, fold: Fold) -> _FoldResult:
    one_thread()
    sides = {"by": task.by, "folds": task.n_folds, "fold": fold.name}
    bundle = train_fold(records, task.training, task.recipe, task.seed, fold, sides, task.init, _features_folder(task))
    histories = [
        pd.read_csv(task.training / history_name(part)).assign(seed=task.seed, fold=fold.name, part=part)
        for part in task.recipe.parts
    ]
    history = pd.concat(histories)[_HISTORY_COLUMNS]
    return _FoldResult(predict_fold(bundle, records, task.seed, fold, task.adapt), history)


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
