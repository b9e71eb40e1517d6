"""The commands evaluate, cross-validate and compare."""

import time
from pathlib import Path
from typing import Annotated

import typer

from ser_batch import api
from ser_batch.cli.console import _print, _say, reporting
from ser_batch.cli.options import (
    ClassWeight,
    EngineName,
    Epochs,
    Init,
    Normalise,
    Quiet,
    RayAddress,
    RecipeName,
    Restart,
    ScoredAdapt,
    Seed,
    Verbose,
    Workers,
)
from ser_batch.runtime.process import prepare_tensorflow
from ser_batch.runtime.signals import resumable


def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, from train.")],
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder with the same front end.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Evaluation folder to write.")],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, validation or test.")] = "test",
    adapt: ScoredAdapt = "none",
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on a split of a record folder.

    Predictions, classification report, confusion matrix, UAR and WA.

    Example: ser-batch evaluate models/emodb tfrecords/emodb -o eval/emodb
    """
    from ser_batch.reports.text import report_text

    with reporting("evaluating", quiet) as report, resumable():
        evaluation = api.evaluate(bundle, records, out, split=split, adapt=adapt, restart=restart, report=report)
    if not quiet:
        _print([report_text(evaluation.scores)])
    _say(f"{out}: {'already finished, nothing to do' if evaluation.was_finished else 'written'}", quiet)


def cross_validate(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder; all its splits are used.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Cross-validation folder to write.")],
    by: Annotated[str, typer.Option(metavar="HOW", help="How folds are divided: by speaker or random.")] = ("speaker"),
    folds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Folds.", show_default="one per speaker; 10 if random")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="K", help="Repetitions, each with another seed.")] = 1,
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    normalise: Normalise = None,
    class_weight: ClassWeight = None,
    init: Init = None,
    adapt: ScoredAdapt = "none",
    seed: Seed = 0,
    workers: Workers = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Cross-validate a recipe: each speaker is predicted by a network trained without them.

    Default: leave one speaker out. Nothing is chosen on the held-out recordings.

    Example: ser-batch cross-validate tfrecords/emodb -o validation/emodb --seeds 3
    """
    began = time.perf_counter()
    prepare_tensorflow(verbose)
    with reporting("cross-validating", quiet) as report, resumable():
        validation = api.cross_validate(
            records,
            out,
            by=by,
            folds=folds,
            seeds=seeds,
            recipe=recipe,
            epochs=epochs,
            normalise=normalise,
            class_weight=class_weight,
            init=init,
            adapt=adapt,
            seed=seed,
            workers=workers,
            engine=engine,
            ray_address=ray_address,
            restart=restart,
            report=report,
        )
    from ser_batch.reports.text import cross_validation_lines

    if not quiet:
        _print(cross_validation_lines(validation.path))
    secs = time.perf_counter() - began
    outcome = "already finished, nothing to do" if validation.was_finished else f"written, in {secs:.1f} s"
    _say(f"{out}: {outcome}", quiet)


def compare(
    folder_a: Annotated[Path, typer.Argument(metavar="DIR_A", help="Cross-validation folder.")],
    folder_b: Annotated[Path, typer.Argument(metavar="DIR_B", help="Another, of the same recordings.")],
) -> None:
    """Compare two cross-validations.

    Prints the differences of UAR and WA, their intervals, and a paired test over speakers.

    Example: ser-batch compare cv/seed cv/default
    """
    from ser_batch.reports.text import comparison_lines

    found = api.compare(folder_a, folder_b)
    if found.task_differences:
        _say(f"warning: the cross-validations have different options; from A to B: {'; '.join(found.task_differences)}")
    _print(comparison_lines(found, str(folder_a), str(folder_b)))
