"""The command train."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ser_batch import api
from ser_batch.cli.console import _say, reporting
from ser_batch.cli.options import ClassWeight, Epochs, Init, Normalise, Quiet, RecipeName, Restart, Seed, Verbose
from ser_batch.runtime.process import prepare_tensorflow
from ser_batch.runtime.signals import resumable


def train(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder, from build-records.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="Bundle folder to write.")],
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    normalise: Normalise = None,
    class_weight: ClassWeight = None,
    mixed_precision: Annotated[
        str, typer.Option(metavar="auto|off", help="auto: bfloat16 if the processor supports it; off: float32.")
    ] = "auto",
    init: Init = None,
    seed: Seed = 0,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto: together with the workers that TF_CONFIG names; single; multi-worker; or mirrored: all GPUs of "
            "this machine.",
        ),
    ] = "auto",
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Train a model on a record folder.

    Writes a checkpoint after every epoch; an interrupted training continues from it.

    Example: ser-batch train tfrecords/emodb -o models/emodb
    """
    from ser_batch.training.recipes import recipe_title

    began = time.perf_counter()
    prepare_tensorflow(verbose)
    with reporting("training", quiet) as report, resumable():
        result = api.train(
            records,
            out,
            recipe=recipe,
            epochs=epochs,
            normalise=normalise,
            class_weight=class_weight,
            mixed_precision=mixed_precision,
            init=init,
            seed=seed,
            strategy=strategy,
            restart=restart,
            report=report,
        )
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.continued_from:
        _say(f"{out}: continued after epoch {result.continued_from}", quiet)
    summary = result.bundle.summary(recipe_title(result.bundle.training["recipe"]))
    _say(f"{out}: {summary}, in {time.perf_counter() - began:.1f} s", quiet)
