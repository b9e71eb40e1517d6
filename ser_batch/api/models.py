"""train, evaluate, cross-validate, compare and export as functions."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch.api.inputs import at_stores, bundle_of, engine_of, initial_bundle
from ser_batch.errors import UsageError
from ser_batch.events import Note, Report, ignore, progress_of, steps_of
from ser_batch.runtime.resources import usable_cpus

if TYPE_CHECKING:
    from ser_batch.evaluation.compare import ModelComparison
    from ser_batch.evaluation.evaluate import Evaluation
    from ser_batch.evaluation.fold_predictions import CrossValidation
    from ser_batch.models.exports import Export
    from ser_batch.training.train import TrainingResult


def _check_one_worker(out: str, arguments: Mapping[str, Any]) -> None:
    """Raise a UsageError if the several workers of a training would write to an object store."""
    text = os.environ.get("TF_CONFIG")
    if not text or arguments.get("strategy") in {"single", "mirrored"}:
        return
    from ser_batch.training.workers import parse_share

    if parse_share(text).of > 1:
        raise UsageError(f"{out}: several workers need a BUNDLE on a file system that all mount; give such a path")


@at_stores("records", "init", out="out", check_out=_check_one_worker)
def train(
    records: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    recipe: str = "default",
    epochs: int | None = None,
    normalise: str | None = None,
    class_weight: str | None = None,
    mixed_precision: str = "auto",
    init: str | os.PathLike[str] | None = None,
    seed: int = 0,
    strategy: str = "auto",
    restart: bool = False,
    report: Report = ignore,
) -> TrainingResult:
    """Train a model on a record folder. For the options see ``ser-batch train``.

    Raises:
        SerBatchError: the recipe does not fit the records, or ``out`` cannot be written.
    """
    if strategy == "mirrored":
        arguments = {name: value for name, value in locals().items() if name not in {"strategy", "report"}}
        return _train_on_gpus(arguments, report)
    from ser_batch.records.folder import open_records
    from ser_batch.training.recipes import find_recipe, parse_precision

    chosen = find_recipe(recipe, epochs=epochs, normalise=normalise, class_weight=class_weight)
    precision, folder = parse_precision(mixed_precision), open_records(Path(records))
    from ser_batch.training.train import train as run
    from ser_batch.training.workers import join_workers

    start = initial_bundle(init)
    result = run(
        folder,
        Path(out),
        chosen,
        seed,
        restart,
        precision=precision,
        init=start,
        workers=join_workers(strategy, lambda message: report(Note(message, is_warning=False))),
        on_epoch=report,
        on_extract=progress_of(report, "extracting features"),
    )
    for note in result.notes:
        report(Note(note))
    if result.bundle.uncalibrated:
        report(Note(f"{result.bundle.uncalibrated}; its probabilities may be too high or too low"))
    return result


def _train_on_gpus(arguments: dict[str, Any], report: Report) -> TrainingResult:
    """`train` with these arguments, in a worker process for each GPU."""
    from ser_batch.models.bundles import open_bundle
    from ser_batch.runtime.gpu_workers import run_on_gpus, visible_gpus
    from ser_batch.training.train import TrainingResult

    figures = run_on_gpus(_train_as_worker, arguments, visible_gpus(), report)
    return TrainingResult(open_bundle(Path(arguments["out"])), *figures)


def _train_as_worker(**arguments: Any) -> tuple[bool, int, tuple[str, ...]]:
    """What a worker process returns: the result of `train` without its bundle."""
    result = train(**arguments, strategy="multi-worker")
    return result.was_finished, result.continued_from, result.notes


@at_stores("bundle", "records", out="out")
def evaluate(
    bundle: str | os.PathLike[str],
    records: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str = "test",
    adapt: str = "none",
    restart: bool = False,
    report: Report = ignore,
) -> Evaluation:
    """Score a model on a split of a record folder. For the options see ``ser-batch evaluate``.

    Raises:
        SerBatchError: model and records do not fit, or ``out`` cannot be written.
    """
    from ser_batch.evaluation.evaluate import evaluate as run
    from ser_batch.inference.adaptation import check_adaptation
    from ser_batch.records.folder import open_records

    model, folder = bundle_of(bundle), open_records(Path(records))
    found = run(model, folder, split, Path(out), restart, check_adaptation(adapt, model))
    if unknown := [label for label in folder.labels if label not in model.labels]:
        report(Note(f"not scored: recordings with a label that the model does not have: {', '.join(unknown)}"))
    return found


@at_stores("records", "init", out="out")
def cross_validate(
    records: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    by: str = "speaker",
    folds: int | None = None,
    seeds: int = 1,
    recipe: str = "default",
    epochs: int | None = None,
    normalise: str | None = None,
    class_weight: str | None = None,
    init: str | os.PathLike[str] | None = None,
    adapt: str = "none",
    seed: int = 0,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    restart: bool = False,
    report: Report = ignore,
) -> CrossValidation:
    """Cross-validate a recipe: each speaker is predicted by a network trained without them.

    For the options see ``ser-batch cross-validate``.

    Raises:
        SerBatchError: a fold cannot be trained, or ``out`` cannot be written.
    """
    from ser_batch.corpus.folds import parse_fold_rule
    from ser_batch.records.folder import open_records
    from ser_batch.training.recipes import find_recipe

    rule = parse_fold_rule(by)
    chosen = find_recipe(recipe, epochs=epochs, normalise=normalise, class_weight=class_weight)
    folder = open_records(Path(records))
    from ser_batch.evaluation.cross_validate import CrossValidationOptions, parallel_folds
    from ser_batch.evaluation.cross_validate import cross_validate as run
    from ser_batch.inference.adaptation import parse_adaptation

    start = initial_bundle(init)
    options = CrossValidationOptions(rule, folds, seeds, seed, parse_adaptation(adapt), start)
    if engine == "local":
        workers = parallel_folds(folder, workers or usable_cpus())
    with engine_of(engine, workers, ray_address, worker_bytes=None) as running:
        steps = steps_of(report, running.where)
        return run(folder, Path(out), chosen, options, running, restart, report, steps)


@at_stores("folder_a", "folder_b")
def compare(folder_a: str | os.PathLike[str], folder_b: str | os.PathLike[str]) -> ModelComparison:
    """Compare two cross-validations of the same recordings: difference, interval and paired test.

    Raises:
        SerBatchError: one is missing or unfinished, or their recordings differ.
    """
    from ser_batch.evaluation.compare import compare as run

    return run(Path(folder_a), Path(folder_b))


@at_stores("bundle", out="out")
def export(
    bundle: str | os.PathLike[str], out: str | os.PathLike[str], *, export_format: str, waveform: bool = False
) -> Export:
    """Write a model for another runtime and check it there. For the options see ``ser-batch export``.

    Raises:
        SerBatchError: the bundle is damaged, ``out`` exists or cannot be written, or the probabilities differ.
    """
    from ser_batch.models.exports import export as run
    from ser_batch.models.exports import parse_export_format

    chosen = parse_export_format(export_format)
    return run(bundle_of(bundle), Path(out), chosen, waveform)
