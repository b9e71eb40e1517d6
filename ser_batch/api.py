"""The commands as Python functions, with the same options, defaults and errors.

They return values and raise `ser_batch.errors.SerBatchError`. Notes and progress go to one callback (``report``).
Imports are inside the functions, so that each command loads only the modules it needs.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ser_batch.errors import UsageError
from ser_batch.events import Note, Report, ignore, progress_of
from ser_batch.formatting import pluralize
from ser_batch.runtime.local import AUDIO_WORKER_BYTES, LocalEngine
from ser_batch.runtime.ray_engine import RayEngine
from ser_batch.runtime.resources import usable_cpus

if TYPE_CHECKING:
    from ser_batch.corpus.table import Listing
    from ser_batch.evaluation.compare import ModelComparison
    from ser_batch.evaluation.metrics import Scores
    from ser_batch.inference.infer import InferResult
    from ser_batch.inference.tracks import TrackCounts
    from ser_batch.models.bundles import Bundle
    from ser_batch.records.build import BuildResult
    from ser_batch.records.estimates import Estimate
    from ser_batch.records.plan import BuildPlan
    from ser_batch.records.verification.metadata import Problem
    from ser_batch.training.train import TrainingResult

Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def build_records(
    source: Source,
    out: str | os.PathLike[str],
    *,
    labels: str = "auto",
    label_map: str | os.PathLike[str] | None = None,
    front_end: str = "speech",
    channel: str = "mean",
    split: str = "speakers",
    fractions: str = "0.8,0.1,0.1",
    num_shards: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    restart: bool = False,
    report: Report = ignore,
) -> BuildResult:
    """Convert audio to a record folder: sharded TFRecords of log-mels. For the options see ``ser-batch build-records``.

    Raises:
        SerBatchError: nothing in ``source`` can be used, or ``out`` cannot be written.
    """
    choice = (labels, label_map, front_end, channel, split, fractions, num_shards, seed)
    with _engine(engine, workers, ray_address) as running:
        plan, bases = _plan_build(source, *choice, running, report)
        from ser_batch.records.build import build_records as build

        result = build(plan, Path(out), running, restart, progress_of(report))
    return dataclasses.replace(result, bases=bases)


def plan_records(
    source: Source,
    *,
    labels: str = "auto",
    label_map: str | os.PathLike[str] | None = None,
    front_end: str = "speech",
    channel: str = "mean",
    split: str = "speakers",
    fractions: str = "0.8,0.1,0.1",
    num_shards: int | None = None,
    seed: int = 0,
    workers: int | None = None,
    report: Report = ignore,
) -> tuple[BuildPlan, Estimate]:
    """Plan `build_records` and estimate size and time, without writing anything.

    Raises:
        SerBatchError: nothing in ``source`` can be used.
    """
    choice = (labels, label_map, front_end, channel, split, fractions, num_shards, seed)
    with LocalEngine(workers or usable_cpus()) as engine:
        plan, _ = _plan_build(source, *choice, engine, report)
        from ser_batch.records.estimates import estimate_build

        return plan, estimate_build(plan, engine)


def _plan_build(
    source: Source,
    labels: str,
    label_map: str | os.PathLike[str] | None,
    front_end: str,
    channel: str,
    split: str,
    fractions: str,
    num_shards: int | None,
    seed: int,
    engine: LocalEngine | RayEngine,
    report: Report,
) -> tuple[BuildPlan, dict[str, str]]:
    engine.start(1, "ser_batch.records.shards")  # first: its imports are as slow as those here
    from ser_batch.audio.frontends import parse_channel, preset
    from ser_batch.corpus.labels import label_recordings, read_label_map
    from ser_batch.corpus.splits import SplitPlan, parse_fractions, parse_rule

    parts = SplitPlan(parse_rule(split), parse_fractions(fractions), seed)
    transform = preset(front_end, parse_channel(channel))
    listing = _list(source, report)
    engine.start(len(listing.recordings), "ser_batch.records.shards")
    from ser_batch.corpus.duplicates import find_duplicates
    from ser_batch.records.plan import BuildOptions, plan_build

    labelled = label_recordings(listing, labels, read_label_map(Path(label_map)) if label_map else None)
    bases = listing.bases
    del listing  # frees memory: it is as large as the labelled table
    duplicates = find_duplicates(labelled.recordings, engine)
    plan = plan_build(labelled, BuildOptions(transform, parts, num_shards), duplicates)
    report(Note(f"labels from {labelled.rule}: {', '.join(plan.labels)}", is_warning=False))
    if labelled.left_out:
        counts = ", ".join(f"{label} {count:,}" for label, count in sorted(labelled.left_out.items()))
        left_out = pluralize(labelled.left_out.total(), "recording")
        report(Note(f"left out by the label map: {left_out} ({counts})", is_warning=False))
    for line in [*labelled.notes, *plan.warnings]:
        report(Note(line))
    return plan, bases


def verify(
    records: str | os.PathLike[str],
    *,
    source: Source | None = None,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    report: Report = ignore,
) -> list[Problem]:
    """Check a record folder and return its problems. For the options see ``ser-batch verify``.

    Raises:
        SerBatchError: the folder is not a finished record folder, or ``source`` cannot be listed.
    """
    from ser_batch.records.folder import open_records
    from ser_batch.records.verification.verify import verify_records

    folder = open_records(Path(records))
    listing = _list(source, ignore) if source is not None else None
    with _engine(engine, workers, ray_address) as running:
        return verify_records(folder, running, listing, progress_of(report))


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
    restart: bool = False,
    report: Report = ignore,
) -> TrainingResult:
    """Train a model on a record folder. For the options see ``ser-batch train``.

    Raises:
        SerBatchError: the recipe does not fit the records, or ``out`` cannot be written.
    """
    from ser_batch.records.folder import open_records
    from ser_batch.training.recipes import find_recipe, parse_precision

    chosen = find_recipe(recipe, epochs=epochs, normalise=normalise, class_weight=class_weight)
    precision, folder = parse_precision(mixed_precision), open_records(Path(records))
    from ser_batch.training.train import train as run

    start = _start(init)
    result = run(folder, Path(out), chosen, seed, restart, precision=precision, init=start, on_epoch=report)
    for note in result.notes:
        report(Note(note))
    if result.bundle.uncalibrated:
        report(Note(f"{result.bundle.uncalibrated}; its probabilities may be too high or too low"))
    return result


def evaluate(
    bundle: str | os.PathLike[str],
    records: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    split: str = "test",
    adapt: str = "none",
    restart: bool = False,
    report: Report = ignore,
) -> tuple[Scores, bool]:
    """Score a model on a split of a record folder; return the scores and whether ``out`` was already complete.

    Raises:
        SerBatchError: model and records do not fit, or ``out`` cannot be written.
    """
    from ser_batch.evaluation.evaluate import evaluate as run
    from ser_batch.inference.adaptation import check_adaptation
    from ser_batch.models.bundles import open_bundle
    from ser_batch.records.folder import open_records

    model, folder = open_bundle(Path(bundle)), open_records(Path(records))
    found = run(model, folder, split, Path(out), restart, check_adaptation(adapt, model))
    if unknown := [label for label in folder.labels if label not in model.labels]:
        report(Note(f"not scored: recordings with a label that the model does not have: {', '.join(unknown)}"))
    return found


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
) -> bool:
    """Cross-validate a recipe; return whether ``out`` was already complete.

    Each speaker is predicted by a network trained without them. For the options see ``ser-batch cross-validate``.

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

    start = _start(init)
    options = CrossValidationOptions(rule, folds, seeds, seed, parse_adaptation(adapt), start)
    if engine == "local":
        workers = parallel_folds(folder, workers or usable_cpus())
    with _engine(engine, workers, ray_address, worker_bytes=None) as running:
        return run(folder, Path(out), chosen, options, running, restart, report)


def compare(folder_a: str | os.PathLike[str], folder_b: str | os.PathLike[str]) -> ModelComparison:
    """Compare two cross-validations of the same recordings: difference, interval and paired test.

    Raises:
        SerBatchError: one is missing or unfinished, or their recordings differ.
    """
    from ser_batch.evaluation.compare import compare as run

    return run(Path(folder_a), Path(folder_b))


def report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    truth: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> None:
    """Write a report page as one HTML file. For the options see ``ser-batch report``.

    Raises:
        SerBatchError: ``path`` is not an output of a command, or ``out`` cannot be written.
    """
    from ser_batch.reports.report import write_report

    of_truth, of_figures = (None if one is None else Path(one) for one in (truth, figures))
    write_report(Path(path), Path(out), of_truth, of_figures)


def infer(
    source: Source,
    out: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    windows: bool = False,
    table_format: str | None = None,
    speaker_from: str | None = None,
    channel: str | None = None,
    adapt: str | None = None,
    labels: str | None = None,
    label_map: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    engine: str = "local",
    ray_address: str | None = None,
    update: bool = False,
    restart: bool = False,
    report: Report = ignore,
) -> InferResult:
    """Predict the emotion of every recording and write the table. For the options see ``ser-batch infer``.

    Raises:
        SerBatchError: ``source`` cannot be listed, the model is damaged, or ``out`` cannot be written.
    """
    with _engine(engine, workers, ray_address) as running:
        running.start(1, "ser_batch.inference.embeddings")  # first: its imports are as slow as those here
        from ser_batch.audio.channels import parse_channels
        from ser_batch.corpus.sources import refuse_own_table

        channels = parse_channels(channel) if channel is not None else None
        bundle = _bundle(model)
        refuse_own_table(_sources(source), os.fspath(out))
        listing = _with_speakers(_list(source, report), speaker_from, report)
        running.start(len(listing.recordings), "ser_batch.inference.embeddings")
        from ser_batch.corpus.labels import read_label_map
        from ser_batch.inference.adaptation import choose_adaptation
        from ser_batch.inference.infer import InferOptions
        from ser_batch.inference.infer import infer as run
        from ser_batch.inference.predictions import choose_labels

        adaptation, notes = choose_adaptation(adapt, bundle, listing.recordings["speaker"], os.fspath(out) == "-")
        changes = read_label_map(Path(label_map)) if label_map is not None else {}
        chosen = choose_labels(labels, changes, bundle) if labels is not None or changes else None
        options = InferOptions(windows, table_format, restart, update, channels, adaptation, chosen)
        result = run(listing, bundle, os.fspath(out), running, options, progress_of(report))
    for note in notes:
        report(Note(note))
    return dataclasses.replace(result, model=bundle.short_fingerprint, adapt=adaptation, bases=listing.bases)


def tracks(
    table: str | os.PathLike[str], out: str | os.PathLike[str], *, table_format: str = "audacity"
) -> TrackCounts:
    """Write the label tracks of a prediction table. For the options see ``ser-batch tracks``.

    Raises:
        SerBatchError: ``table`` is not a prediction table, or a file cannot be written.
    """
    from ser_batch.inference.tracks import write_tracks

    return write_tracks(Path(table), Path(out), table_format)


def _engine(
    name: str, workers: int | None, ray_address: str | None, worker_bytes: int | None = AUDIO_WORKER_BYTES
) -> LocalEngine | RayEngine:
    if name == "ray":
        return RayEngine(workers, ray_address, worker_bytes)
    if name != "local":
        raise UsageError(f"--engine {name}: no such engine; choose one of local, ray")
    if ray_address is not None:
        raise UsageError(f"--ray-address {ray_address}: is for --engine ray")
    return LocalEngine(workers or usable_cpus(), worker_bytes)


def _start(init: str | os.PathLike[str] | None) -> Bundle | None:
    """The bundle whose weights a training starts from."""
    return None if init is None else _bundle(None if init == "shipped" else init)


def _bundle(path: str | os.PathLike[str] | None) -> Bundle:
    """A bundle; None: the shipped model."""
    from ser_batch.models.bundles import open_bundle, shipped_bundle

    return shipped_bundle() if path is None else open_bundle(Path(path))


def _list(source: Source, report: Report) -> Listing:
    from ser_batch.corpus.sources import list_sources

    sources = _sources(source)
    listing = list_sources(sources)
    if listing.other_files:
        where = sources[0] if len(sources) == 1 else f"{len(sources):,} SOURCEs"
        skipped = pluralize(listing.other_files, "file")
        report(Note(f"skipped: {skipped} in {where} without an audio extension", is_warning=False))
    for note in listing.notes:
        report(Note(note))
    return listing


def _sources(source: Source) -> list[str]:
    if isinstance(source, str | os.PathLike):
        return [os.fspath(source)]
    return [os.fspath(one) for one in source]


def _with_speakers(listing: Listing, speaker_from: str | None, report: Report) -> Listing:
    from ser_batch.corpus.labels import name_speakers, speaker_notes

    if speaker_from is not None:
        listing = name_speakers(listing, speaker_from)
    for note in speaker_notes(listing.recordings):
        report(Note(note))
    return listing
