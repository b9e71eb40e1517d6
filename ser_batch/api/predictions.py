"""infer, tracks and report as functions."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING

from ser_batch.api.inputs import (
    Source,
    at_stores,
    bundle_of,
    engine_of,
    listing_of,
    output_path,
    sources_of,
    with_speakers,
)
from ser_batch.events import Note, Report, ignore, progress_of

if TYPE_CHECKING:
    from ser_batch.inference.infer import InferResult
    from ser_batch.inference.tracks import TrackCounts


@at_stores("model", out="out")
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
    with engine_of(engine, workers, ray_address) as running:
        running.start(1, "ser_batch.inference.embeddings")  # first: its imports are as slow as those here
        from ser_batch.audio.channels import parse_channels
        from ser_batch.corpus.sources import refuse_own_table

        channels = parse_channels(channel) if channel is not None else None
        bundle = bundle_of(model)
        refuse_own_table(sources_of(source), os.fspath(out))
        listing = with_speakers(listing_of(source, report), speaker_from, report)
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
        result = run(listing, bundle, os.fspath(out), running, options, progress_of(report, where=running.where))
    for note in notes:
        report(Note(note))
    return dataclasses.replace(result, model=bundle.short_fingerprint, adapt=adaptation, bases=listing.bases)


@at_stores("table", out="out")
def tracks(
    table: str | os.PathLike[str], out: str | os.PathLike[str], *, table_format: str = "audacity"
) -> TrackCounts:
    """Write the label tracks of a prediction table. For the options see ``ser-batch tracks``.

    Raises:
        SerBatchError: ``table`` is not a prediction table, or a file cannot be written.
    """
    from ser_batch.inference.tracks import write_tracks

    return write_tracks(Path(table), Path(out), table_format)


@at_stores("path", "other", "records", out="out")
def report(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    truth: str | os.PathLike[str] | None = None,
    audio: str | os.PathLike[str] | None = None,
    records: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> None:
    """Write a report page as one HTML file. For the options see ``ser-batch report``.

    Raises:
        SerBatchError: ``path`` is not an output of a command, or ``out`` cannot be written.
    """
    from ser_batch.reports.report import write_report

    optional = [None if one is None else Path(one) for one in (other, truth, audio, records, figures)]
    write_report(output_path(path), Path(out), *optional)
