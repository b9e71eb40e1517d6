"""The command infer."""

import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_batch import __version__
from ser_batch.cli.console import SOME_FAILED, _list_errors, _say, _say_notes, progress_bar
from ser_batch.cli.options import Quiet, Restart, Sources, Workers
from ser_batch.errors import UsageError
from ser_batch.formatting import pluralize
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.resources import usable_cpus
from ser_batch.runtime.signals import resumable

if TYPE_CHECKING:
    from ser_batch.inference.infer import InferResult


def infer(
    source: Sources,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Table to write; - for standard output.")],
    model: Annotated[
        Path | None, typer.Option(metavar="BUNDLE", help="Bundle folder.", show_default="the shipped model")
    ] = None,
    windows: Annotated[bool, typer.Option("--windows", help="One row per window, not one per recording.")] = False,
    table_format: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help="csv, parquet or jsonl.", show_default="by --out's suffix"),
    ] = None,
    speaker_from: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Who speaks, for models normalised by speaker: folder, or regex:PATTERN with (?P<speaker>…).",
            show_default="a CSV's column speaker",
        ),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            metavar="mean|N|each",
            help="The mean of all channels, one, from 0, or a row for each.",
            show_default="as the model was trained",
        ),
    ] = None,
    workers: Workers = usable_cpus(),
    update: Annotated[bool, typer.Option("--update", help="Predict only files that are new or changed.")] = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Predict the emotion of every recording.

    One row each, in the order of SOURCE; a file that cannot be used has a row with the reason.

    Example: ser-batch infer calls/ -o preds.csv
    """
    from ser_batch.audio.channels import parse_channels
    from ser_batch.corpus.labels import name_speakers, speaker_notes
    from ser_batch.corpus.sources import list_sources
    from ser_batch.models.bundles import open_bundle, shipped_bundle

    began = time.perf_counter()
    channels = parse_channels(channel) if channel is not None else None
    bundle = open_bundle(model) if model else shipped_bundle()
    _refuse_own_table(source, out)
    listing = list_sources(source)
    _say_notes(listing, source, quiet)
    if speaker_from is not None:
        listing = name_speakers(listing, speaker_from)
    if bundle.content.speaker_reference is None:
        if speaker_from is not None:
            _say("warning: this model does not normalise by speaker; --speaker-from changes nothing", quiet)
    elif not any(one.speaker for one in listing.recordings):
        _say(
            "warning: this model normalises by speaker, and none is known: "
            + ("give --speaker-from or a column speaker" if speaker_from is None else f"{speaker_from} names nobody"),
            quiet,
        )
    else:
        for note in speaker_notes(listing.recordings):
            _say(f"warning: {note}", quiet)
    with (
        LocalEngine(workers) as engine,
        progress_bar("predicting", quiet) as show,
        resumable() if out != "-" else nullcontext(),
    ):
        engine.start(len(listing.recordings), "ser_batch.inference.predictions")
        # Only now, beside the workers' own imports: these are as slow.
        from ser_batch.inference.infer import InferOptions
        from ser_batch.inference.infer import infer as run

        options = InferOptions(windows, table_format, restart, update, channels)
        result = run(listing, bundle, out, engine, options, show)
    which = str(model) if model else f"the model shipped with ser-batch {__version__}"
    _say(f"model: {which} ({bundle.short_fingerprint})", quiet)
    _report_table(result, out, listing.bases, time.perf_counter() - began, quiet)


def _report_table(result: "InferResult", out: str, bases: dict[str, str], secs: float, quiet: bool) -> None:
    from ser_batch.reports.text import table_lines

    tally = result.tally
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.n_known:
        _say(f"{out}: {pluralize(result.n_known, 'recording')} known, {result.n_new:,} new", quiet)
    _list_errors(tally.first_errors, tally.errors, out, bases)
    for line in table_lines(tally, out, result.audio_secs, secs):
        _say(line, quiet)
    if tally.errors:
        raise typer.Exit(1 if tally.errors == tally.files else SOME_FAILED)


def _refuse_own_table(sources: list[str], out: str) -> None:
    """Raise a UsageError if the table to write is read, too: a shell's * gives it where it was written before."""
    for source in sources:
        if out != "-" and os.path.exists(out) and os.path.exists(source) and os.path.samefile(source, out):
            raise UsageError(
                f"SOURCE {source}: is the table to write; leave it out of the SOURCEs (*.wav in place of *), or write "
                "it into another folder"
            )
