"""The commands infer and tracks."""

import time
from contextlib import nullcontext
from os.path import splitext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_batch import __version__, api
from ser_batch.cli.console import SOME_FAILED, _list_errors, _say, reporting
from ser_batch.cli.options import Adapt, EngineName, Quiet, RayAddress, Restart, Sources, Workers
from ser_batch.errors import UsageError
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
_Model = Annotated[Path | None, typer.Option(metavar="BUNDLE", help="Bundle folder.", show_default="the shipped model")]
_TableFormat = Annotated[
    str | None,
    typer.Option("--format", metavar="NAME", help="csv, parquet or jsonl.", show_default="by --out's suffix"),
]
_Tracks = Annotated[
    str | None,
    typer.Option(
        metavar="FORMAT",
        help="Also write label tracks, in a folder beside --out: audacity, textgrid, rttm, elan or audformat.",
        show_default="none",
    ),
]


def infer(
    source: Sources,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FILE", help="Table to write; - for standard output.")],
    model: _Model = None,
    windows: Annotated[bool, typer.Option("--windows", help="One row per window, not one per recording.")] = False,
    table_format: _TableFormat = None,
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
    tracks: _Tracks = None,
    update: Annotated[bool, typer.Option("--update", help="Predict only files that are new or changed.")] = False,
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Predict the emotion of every recording.

    Writes one row per recording, in SOURCE order; for an unusable file, the row has the error.

    Example: ser-batch infer calls/ -o preds.csv
    """
    began = time.perf_counter()
    if tracks is not None:
        _check_tracks(tracks, out)
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
    if tracks is not None:
        _write_tracks(out, f"{splitext(out)[0]}-tracks", tracks, quiet)
    if n_errors := result.summary.errors:
        raise typer.Exit(1 if n_errors == result.summary.files else SOME_FAILED)


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


def tracks(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="Prediction table, best of infer --windows.")],
    out: Annotated[str, typer.Option("--out", "-o", metavar="DIR", help="Folder of the files.")],
    table_format: Annotated[
        str, typer.Option("--format", metavar="FORMAT", help="audacity, textgrid, rttm, elan or audformat.")
    ] = "audacity",
    quiet: Quiet = False,
) -> None:
    """Write label tracks: the emotions over time, one file for each recording or one audformat database.

    Example: ser-batch tracks preds.csv -o tracks/ --format textgrid
    """
    _write_tracks(table, out, table_format, quiet)


def _check_tracks(track_format: str, out: str) -> None:
    """Check ``--tracks`` before a table is made, which may take hours."""
    from ser_batch.inference.tracks import check_track_format

    check_track_format(track_format)
    if out == "-":
        raise UsageError("--tracks: --out - writes no table; give a file as --out")


def _write_tracks(table: str, out: str, track_format: str, quiet: bool) -> None:
    counts = api.tracks(table, out, table_format=track_format)
    without = f"; {pluralize(counts.without, 'row')} without a prediction" if counts.without else ""
    _say(f"{out}: {pluralize(counts.files, 'file')} of {pluralize(counts.recordings, 'recording')}{without}", quiet)
