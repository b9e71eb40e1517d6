"""Cross-validation: every example is predicted by a network that was not trained on its speaker.

Each fold and seed is one task, which continues after a kill and writes a small file with its predictions. Functionals
are extracted once for all folds. The held-out examples are used only for the final score. The probabilities of a fold
are calibrated with the predictions of the other folds: see
`ser_batch.evaluation.fold_scores.cross_fitted_temperatures`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tensorflow as tf

from ser_batch.corpus.folds import FoldRule, make_folds
from ser_batch.errors import OutputError, TrainingError, UsageError
from ser_batch.evaluation.figures import plot_confusion
from ser_batch.evaluation.fold_predictions import CrossValidation, write_table
from ser_batch.evaluation.fold_scores import FOLD_FILES, write_folds
from ser_batch.evaluation.fold_tasks import ExtractionTask, FoldTask, extract_features, fold_rows, read_fold, run_fold
from ser_batch.evaluation.folders import FOLDS, HISTORY, SCORES, read_validation_summary
from ser_batch.evaluation.metrics import Scores
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.models.networks.options import check_normalisation
from ser_batch.records.folder import RecordFolder, check_no_repeats
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.resources import usable_memory
from ser_batch.storage.outputs import OutputKind, open_output, read_own_json
from ser_batch.training.feature_store import copy_seeds
from ser_batch.training.recipes import Recipe, recipe_title

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
        folds = [read_fold(task) for task in tasks]
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


def _tasks(records: RecordFolder, folder: Path, recipe: Recipe, options: CrossValidationOptions) -> list[FoldTask]:
    rows = fold_rows(records)
    return [
        FoldTask(
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


def _extract(records: RecordFolder, tasks: list[FoldTask], engine: Engine, on_progress: OnProgress) -> None:
    """Extract the features that the unfinished folds use, unless done before."""
    left = {task.seed: task for task in tasks if not task.path.exists()}
    if not left or tasks[0].recipe.network != "functionals":
        return
    folder, recipe = tasks[0].features, tasks[0].recipe
    epochs = range(1, recipe.epochs + 1)
    copies = {one for seed in left for one in copy_seeds(recipe, seed, epochs)}
    extractions = [ExtractionTask(records.path.absolute(), folder, recipe, one) for one in (None, *sorted(copies))]
    step = "extracting features"
    on_progress(0, len(extractions), step)
    for done, outcome in enumerate(engine.map(extract_features, extractions), 1):
        if outcome.failure is not None:
            raise TrainingError(
                f"features: {outcome.failure}; run the same command again to continue, with fewer --workers if memory "
                "was short"
            )
        on_progress(done, len(extractions), step)


def _run_folds(
    tasks: list[FoldTask], engine: Engine, on_fold: Callable[[FoldReport], None], on_progress: OnProgress
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
