"""The command info."""

from pathlib import Path
from typing import Annotated

import typer

from ser_batch.cli.console import _print, _print_csv
from ser_batch.errors import UsageError


def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Records, bundle, prediction table, evaluation or cross-validation.")
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
        _print_csv(manifest_table(path) if manifest else error_table(path))
    else:
        _print(describe(path))
