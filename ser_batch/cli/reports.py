"""The command info."""

from pathlib import Path
from typing import Annotated

import typer

from ser_batch.cli.console import _print


def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Records, bundle, prediction table or cross-validation.")
    ],
) -> None:
    """Say what a folder or a table is.

    Example: ser-batch info tfrecords/emodb
    """
    from ser_batch.reports.info import describe

    _print(describe(path))
