"""The commands info, report and export."""

from pathlib import Path
from typing import Annotated

import typer

from ser_batch import api
from ser_batch.api.inputs import local_path, output_path
from ser_batch.cli.console import _print, _print_csv, _say
from ser_batch.cli.options import Quiet
from ser_batch.errors import UsageError
from ser_batch.runtime.process import prepare_tensorflow
from ser_batch.storage.filesystems import as_url


def info(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Records, bundle or shipped, prediction table, evaluation or cross-validation.",
        ),
    ],
    manifest: Annotated[
        bool, typer.Option("--manifest", help="Records: print the examples as CSV to standard output.")
    ] = False,
    errors: Annotated[
        bool, typer.Option("--errors", help="Records: print unusable recordings as CSV to standard output.")
    ] = False,
) -> None:
    """Describe a folder or a table.

    Example: ser-batch info tfrecords/emodb
    """
    from ser_batch.reports.info import describe, error_table, manifest_table

    if manifest and errors:
        raise UsageError("--manifest cannot be combined with --errors")
    if manifest or errors:
        found = local_path(path)
        _print_csv(manifest_table(found) if manifest else error_table(found))
    else:
        _print(describe(output_path(local_path(path))))


def report(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Records, bundle or shipped, prediction table, evaluation or cross-validation.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE.html", help="Page to write.")],
    other: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="A second cross-validation, to compare with the first.")
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Prediction table: score it; columns file and label.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Scored predictions: the recordings, for clips of mistakes.")
    ] = None,
    records: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Scored predictions: the records, for log-mels of mistakes.")
    ] = None,
    figures: Annotated[Path | None, typer.Option(metavar="DIR", help="Write each picture as PNG and SVG, too.")] = None,
    quiet: Quiet = False,
) -> None:
    """Write a page with figures, tables and scores as one HTML file.

    Example: ser-batch report preds.csv -o report.html
    """
    api.report(path, out, other, truth=truth, audio=audio, records=records, figures=figures)
    size = "" if as_url(out) else f", {out.stat().st_size / 1e6:.1f} MB"
    _say(f"{out}: written{size}", quiet)


def export(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder; shipped: the model of the package.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write; it must not exist.")],
    export_format: Annotated[str, typer.Option("--format", metavar="FORMAT", help="saved-model, litert or onnx.")],
    waveform: Annotated[
        bool, typer.Option("--waveform", help="saved-model: take mono audio in place of a log-mel spectrogram.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Write a model for another runtime, run it there, and compare.

    Example: ser-batch export models/emodb -o exported --format onnx
    """
    prepare_tensorflow(verbose=False)
    written = api.export(bundle, out, export_format=export_format, waveform=waveform)
    difference = f"largest difference of a probability from {bundle}: {written.difference:.1g}"
    _say(f"{out / written.file.name}: written; {difference}", quiet)
