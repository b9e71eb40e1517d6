"""The command train."""

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_batch.cli.console import _say
from ser_batch.cli.options import ClassWeight, Epochs, Normalise, Quiet, RecipeName, Restart, Seed, Verbose
from ser_batch.runtime.process import prepare_tensorflow
from ser_batch.runtime.signals import resumable

if TYPE_CHECKING:
    from ser_batch.training.trainer import Epoch


def train(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder, from build-records.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="Bundle folder to write.")],
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    normalise: Normalise = None,
    class_weight: ClassWeight = None,
    mixed_precision: Annotated[
        str, typer.Option(metavar="auto|off", help="bfloat16 where the processor has it, or float32.")
    ] = "auto",
    seed: Seed = 0,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a record folder.

    It writes a checkpoint after every epoch, and continues from the last one.

    Example: ser-batch train tfrecords/emodb -o models/emodb
    """
    from ser_batch.records.folder import open_records
    from ser_batch.training.recipes import find_recipe, parse_precision, recipe_title

    began = time.perf_counter()
    hidden = quiet or not sys.stderr.isatty()
    chosen = find_recipe(recipe, epochs=epochs, normalise=normalise, class_weight=class_weight)
    precision, folder = parse_precision(mixed_precision), open_records(records)
    prepare_tensorflow(verbose)
    from ser_batch.training.train import train as run

    with resumable():
        result = run(
            folder, out, chosen, seed, restart, precision=precision, on_epoch=lambda epoch: _say(_line(epoch), hidden)
        )
    for note in result.notes:
        _say(f"warning: {note}", quiet)
    if result.bundle.uncalibrated:
        _say(f"warning: {result.bundle.uncalibrated}; its probabilities may be too high or too low", quiet)
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.continued_from:
        _say(f"{out}: continued after epoch {result.continued_from}", quiet)
    summary = result.bundle.summary(recipe_title(result.bundle.training["recipe"]))
    _say(f"{out}: {summary}, in {time.perf_counter() - began:.1f} s", quiet)


def _line(epoch: "Epoch") -> str:
    figures = "  ".join(f"{name} {value:.3f}" for name, value in epoch.metrics.items())
    return f"epoch {epoch.number:3d}/{epoch.of}  {figures}  {epoch.secs:.1f} s"
