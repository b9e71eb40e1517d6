"""build-records and verify as functions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ser_batch.api.inputs import Source, at_stores, engine_of, listing_of
from ser_batch.events import Note, Report, ignore, progress_of
from ser_batch.formatting import pluralize
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.ray_engine import RayEngine
from ser_batch.runtime.resources import usable_cpus

if TYPE_CHECKING:
    from ser_batch.records.build import BuildResult
    from ser_batch.records.estimates import Estimate
    from ser_batch.records.plan import BuildPlan
    from ser_batch.records.verification.metadata import Problem


@at_stores(out="out")
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
    with engine_of(engine, workers, ray_address) as running:
        plan, bases = _plan_build(source, *choice, running, report)
        from ser_batch.records.build import build_records as build

        result = build(plan, Path(out), running, restart, progress_of(report, where=running.where))
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
    listing = listing_of(source, report)
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


@at_stores("records")
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
    listing = listing_of(source, ignore) if source is not None else None
    with engine_of(engine, workers, ray_address) as running:
        return verify_records(folder, running, listing, progress_of(report, where=running.where))
