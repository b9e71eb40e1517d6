"""The commands infer and tracks."""

import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_batch import __version__, api
from ser_batch.cli.console import SOME_FAILED, _list_errors, _say, reporting
from ser_batch.cli.options import Adapt, EngineName, Quiet, RayAddress, Restart, Sources, Workers
from ser_batch.formatting import pluralize
from ser_batch.runtime.signals import resumable

if TYPE_CHECKING:
    from ser_batch.inference.infer import InferResult


_ADAPTED = {
    "none": "for each recording alone (--adapt none)",
    "batch": "adapted to the batch (--adapt batch)",
    "speakers": "adapted to each given speaker (--adapt speakers)",
    "voices": "adapted to the voices found (--adapt voices)",
}


_SpeakerFrom = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="Speakers: folder, or regex:PATTERN with (?P<speaker>…).",
        show_default="a CSV's column speaker",
    ),
]
_Channel = Annotated[
    str | None,
    typer.Option(
        metavar="mean|N|each",
        help="Mean of all channels, one channel (from 0), or rows for each.",
        show_default="as in training",
    ),
]


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
    speaker_from: _SpeakerFrom = None,
    channel: _Channel = None,
    adapt: Adapt = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="A,B,…", help="Choose among these labels only.", show_default="all of the model"),
    ] = None,
    label_map: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Rename, merge or drop labels of the model: columns from, to.")
    ] = None,
    workers: Workers = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    update: Annotated[bool, typer.Option("--update", help="Predict only files that are new or changed.")] = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Predict the emotion of every recording.

    Writes one row per recording, in SOURCE order; for an unusable file, the row has the error.

    Example: ser-batch infer calls/ -o preds.csv
    """
    began = time.perf_counter()
    with reporting("predicting", quiet) as report, resumable() if out != "-" else nullcontext():
        result = api.infer(
            source,
            out,
            model=model,
            windows=windows,
            table_format=table_format,
            speaker_from=speaker_from,
            channel=channel,
            adapt=adapt,
            labels=labels,
            label_map=label_map,
            workers=workers,
            engine=engine,
            ray_address=ray_address,
            update=update,
            restart=restart,
            report=report,
        )
    which = str(model) if model else f"the model shipped with ser-batch {__version__}"
    _say(f"model: {which} ({result.model}), predictions {_ADAPTED[result.adapt]}", quiet)
    _report_table(result, out, time.perf_counter() - began, quiet)


def _report_table(result: "InferResult", out: str, secs: float, quiet: bool) -> None:
    from ser_batch.reports.text import table_lines

    summary = result.summary
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.n_known:
        _say(f"{out}: {pluralize(result.n_known, 'recording')} already predicted, {result.n_new:,} new", quiet)
    _list_errors(summary.first_errors, summary.errors, out, result.bases)
    for line in table_lines(summary, out, result.audio_secs, secs):
        _say(line, quiet)
    if summary.errors:
        raise typer.Exit(1 if summary.errors == summary.files else SOME_FAILED)


def tracks(
    table: Annotated[Path, typer.Argument(metavar="TABLE", help="Prediction table, best of infer --windows.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the files.")],
    table_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="audacity, textgrid, rttm, elan or audformat.")
    ] = "audacity",
    quiet: Quiet = False,
) -> None:
    """Write label tracks: the emotions over time, one file for each recording or one audformat database.

    Example: ser-batch tracks preds.csv -o tracks/ --format textgrid
    """
    counts = api.tracks(table, out, table_format=table_format)
    without = f"; {pluralize(counts.without, 'row')} without a prediction" if counts.without else ""
    _say(f"{out}: {pluralize(counts.files, 'file')} of {pluralize(counts.recordings, 'recording')}{without}", quiet)
