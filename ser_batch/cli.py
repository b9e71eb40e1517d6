"""The commands: each parses, calls the library once, and says what came of it."""

import errno
import os
import re
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ser_batch import __version__
from ser_batch.engines import LocalEngine, usable_cpus
from ser_batch.errors import SerBatchError, UsageError
from ser_batch.files import url_problem
from ser_batch.native import keep_freed_memory
from ser_batch.progress import progress_bar
from ser_batch.wording import counted, part_named

if TYPE_CHECKING:
    from ser_batch.audio.recordings import Listing
    from ser_batch.models.training import Epoch
    from ser_batch.records.builds import BuildResult
    from ser_batch.results.inference import InferResult

SOME_FAILED = 3
_LISTED_ERRORS = 20
_MISSING = os.strerror(errno.ENOENT)

app = typer.Typer(
    name="ser-batch",
    help="Batch speech emotion recognition: audio folders to TFRecords, training, predictions to CSV.",
    epilog="Exit codes: 0 all done, 1 failed, 2 wrong usage, 3 finished but some inputs failed, 130/143 stopped.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Workers = Annotated[
    int, typer.Option("--workers", "-j", min=1, metavar="N", help="Worker processes.", show_default="usable CPUs")
]
Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCE", help="Directories, files, CSVs or TSVs with a column file, @list.txt, or -."),
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of everything random.")]
_RECIPES = "the recipe's"
RecipeName = Annotated[str, typer.Option("--recipe", metavar="NAME", help="default, seed, or a TOML file.")]
Epochs = Annotated[
    int | None, typer.Option("--epochs", min=1, metavar="N", help="Epochs.", show_default="the recipe's")
]
Normalise = Annotated[
    str | None,
    typer.Option("--normalise", metavar="HOW", help="none, train, file or speaker statistics.", show_default=_RECIPES),
]
ClassWeight = Annotated[
    str | None, typer.Option("--class-weight", metavar="HOW", help="balanced or none.", show_default=_RECIPES)
]
Restart = Annotated[bool, typer.Option("--restart", help="Throw away what an earlier run left in --out.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Also show what TensorFlow has to say.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only errors.")]


def _say(line: str, quiet: bool = False) -> None:
    if not quiet:
        # A name may hold a line break, or what a terminal obeys.
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)


def _print(lines: Iterable[str]) -> None:
    from ser_batch.results.tables import standard_output

    with standard_output() as file:
        file.write("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"ser-batch {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _prepare_tensorflow(verbose: bool) -> None:
    """What has to be set before TensorFlow is imported."""
    keep_freed_memory()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    if not verbose:
        import logging
        import warnings

        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", module="keras")


def _say_notes(listing: "Listing", sources: list[str], quiet: bool) -> None:
    if listing.other_files:
        where = sources[0] if len(sources) == 1 else f"{len(sources):,} SOURCEs"
        _say(f"left alone: {counted(listing.other_files, 'file')} in {where}, not audio by the extension", quiet)
    for note in listing.notes:
        _say(f"warning: {note}", quiet)


def _list_errors(errors: Sequence[tuple[str, str]], total: int, where: str, bases: dict[str, str]) -> None:
    for name, reason in errors[:_LISTED_ERRORS]:
        _say(f"error: {name}: {reason}")
    if total > _LISTED_ERRORS:
        _say(f"error: and {total - _LISTED_ERRORS} more, all in {where}")
    if any(_MISSING in reason and not os.path.isabs(name) for name, reason in errors):
        for name, folder in bases.items():
            _say(f"error: relative paths in {name} were looked for in {folder}")


@app.command("build-records")
def build_records(
    source: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Record folder to write.")],
    labels: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help="auto, folder, emodb, ravdess, crema-d, tess, savee, emovo, regex:PATTERN, or CSV of file and label.",
        ),
    ] = "auto",
    label_map: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Labels to rename, in columns from and to; to (drop): leave out.")
    ] = None,
    front_end: Annotated[
        str, typer.Option(metavar="NAME", help="How audio becomes log-mels: speech or seed.")
    ] = "speech",
    channel: Annotated[
        str, typer.Option(metavar="mean|N", help="The mean of all channels, or one, counted from 0.")
    ] = "mean",
    split: Annotated[
        str, typer.Option(metavar="HOW", help="speakers (disjoint), random (stratified) or none.")
    ] = "speakers",
    fractions: Annotated[
        str, typer.Option(metavar="A,B,C", help="Shares of train, validation, test; they sum to 1.")
    ] = "0.8,0.1,0.1",
    num_shards: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Shards per split.", show_default="by number of recordings")
    ] = None,
    seed: Seed = 0,
    workers: Workers = usable_cpus(),
    restart: Restart = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Turn audio into sharded TFRecords of log-mels.

    Example: ser-batch build-records recordings/ -o tfrecords/mine
    """
    from ser_batch.audio.corpora import label_recordings, read_label_map
    from ser_batch.audio.frontend import parse_channel, preset
    from ser_batch.audio.recordings import list_sources
    from ser_batch.records.splits import SplitPlan, parse_fractions, parse_rule

    began = time.perf_counter()
    parts = SplitPlan(parse_rule(split), parse_fractions(fractions), seed)
    transform = preset(front_end, parse_channel(channel))
    listing = list_sources(source)
    _say_notes(listing, source, quiet)
    with LocalEngine(workers) as engine, progress_bar("building", quiet) as show:
        engine.start(len(listing.recordings), "ser_batch.records.shards")
        # Only now, beside the workers' own imports: these are as slow.
        from ser_batch.records.builds import build_records as build
        from ser_batch.records.duplicates import find_duplicates
        from ser_batch.records.estimates import estimate_build
        from ser_batch.records.plans import BuildOptions, plan_build
        from ser_batch.results.description import describe_plan

        labelled = label_recordings(listing, labels, read_label_map(label_map) if label_map else None)
        bases = listing.bases
        del listing  # as large as what was made of it
        options = BuildOptions(transform, parts, num_shards)
        plan = plan_build(labelled, options, find_duplicates(labelled.recordings, engine))
        _say(f"labels from {labelled.rule}: {', '.join(plan.labels)}", quiet)
        if labelled.left_out:
            counts = ", ".join(f"{label} {count:,}" for label, count in sorted(labelled.left_out.items()))
            _say(f"left out by the label map: {counted(labelled.left_out.total(), 'recording')} ({counts})", quiet)
        for line in [*labelled.notes, *plan.warnings]:
            _say(f"warning: {line}", quiet)
        if dry_run:
            _print(describe_plan(plan, estimate_build(plan, engine), engine.workers))
            return
        result = build(plan, out, engine, restart, show)
    _report_build(result, out, bases, time.perf_counter() - began, quiet)


def _report_build(result: "BuildResult", out: Path, bases: dict[str, str], secs: float, quiet: bool) -> None:
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    for code, count in sorted(result.warnings.items()):
        _say(f"warning: {code}: {counted(count, 'recording')}", quiet)
    if result.n_errors:
        rows = islice(result.records.errors(), _LISTED_ERRORS)
        errors = [(part_named(row["file"], row["start"], row["end"]), row["reason"]) for row in rows]
        _list_errors(errors, result.n_errors, str(out / "errors.csv"), bases)
    _say(f"{out}: {result.records.summary()}, in {secs:.1f} s", quiet)
    if result.n_errors:
        raise typer.Exit(SOME_FAILED)


@app.command()
def verify(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder, from build-records.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="What it was built from, once for each SOURCE: compare the audio, too.",
            show_default="no",
        ),
    ] = None,
    workers: Workers = usable_cpus(),
    quiet: Quiet = False,
) -> None:
    """Check a record folder.

    Every CRC, count, checksum and value, and that the manifest is true.

    Example: ser-batch verify tfrecords/emodb --source recordings/
    """
    from ser_batch.audio.recordings import list_sources
    from ser_batch.records.layout import open_records
    from ser_batch.records.verification import verify_records

    began = time.perf_counter()
    folder = open_records(records)
    listing = list_sources(source) if source else None
    with LocalEngine(workers) as engine, progress_bar("verifying", quiet) as show:
        problems = verify_records(folder, engine, listing, show)
    for problem in problems[:_LISTED_ERRORS]:
        _say(f"error: {problem}")
    if len(problems) > _LISTED_ERRORS:
        _say(f"error: and {len(problems) - _LISTED_ERRORS} more")
    secs = time.perf_counter() - began
    if problems:
        _say(f"{records}: not sound: {counted(len(problems), 'problem')}, found in {secs:.1f} s", quiet)
        raise typer.Exit(1)
    _say(f"{records}: sound: {folder.summary()}, checked in {secs:.1f} s", quiet)


@app.command()
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
    _prepare_tensorflow(verbose)
    from ser_batch.models.recipes import RecipeChanges, find_recipe
    from ser_batch.models.training import parse_precision
    from ser_batch.models.training import train as run
    from ser_batch.records.layout import open_records

    began = time.perf_counter()
    shown = quiet or not sys.stderr.isatty()
    chosen = find_recipe(recipe, RecipeChanges(epochs, normalise, class_weight))
    result = run(
        open_records(records),
        out,
        chosen,
        seed,
        restart,
        precision=parse_precision(mixed_precision),
        on_epoch=lambda epoch: _say(_line(epoch), shown),
    )
    for note in result.notes:
        _say(f"warning: {note}", quiet)
    if result.bundle.uncalibrated:
        _say(f"warning: {result.bundle.uncalibrated}; its probabilities may be too high or too low", quiet)
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.continued_from:
        _say(f"{out}: continued after epoch {result.continued_from}", quiet)
    _say(f"{out}: {result.bundle.summary()}, in {time.perf_counter() - began:.1f} s", quiet)


def _line(epoch: "Epoch") -> str:
    figures = "  ".join(f"{name} {value:.3f}" for name, value in epoch.metrics.items())
    return f"epoch {epoch.number:3d}/{epoch.of}  {figures}  {epoch.secs:.1f} s"


@app.command()
def evaluate(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle folder, from train.")],
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder with the same front end.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Evaluation folder to write.")],
    split: Annotated[str, typer.Option(metavar="SPLIT", help="train, validation or test.")] = "test",
    restart: Restart = False,
    quiet: Quiet = False,
) -> None:
    """Score a model on a split of a record folder.

    Predictions, classification report, confusion matrix, UAR and WA.

    Example: ser-batch evaluate models/emodb tfrecords/emodb -o eval/emodb
    """
    from ser_batch.models.bundles import open_bundle
    from ser_batch.records.layout import open_records
    from ser_batch.results.evaluation import evaluate as run
    from ser_batch.results.evaluation import report_text

    scores, was_finished = run(open_bundle(bundle), open_records(records), split, out, restart)
    if not quiet:
        _print([report_text(scores)])
    _say(f"{out}: {'already finished, nothing to do' if was_finished else 'written'}", quiet)


@app.command("cross-validate")
def cross_validate(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder; all its splits are used.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Cross-validation folder to write.")],
    by: Annotated[str, typer.Option(metavar="HOW", help="What a fold holds out as a whole: speaker or random.")] = (
        "speaker"
    ),
    folds: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Folds.", show_default="one per speaker; 10 if random")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, metavar="K", help="Repetitions, each with a seed of its own.")] = 1,
    recipe: RecipeName = "default",
    epochs: Epochs = None,
    normalise: Normalise = None,
    class_weight: ClassWeight = None,
    seed: Seed = 0,
    workers: Workers = usable_cpus(),
    restart: Restart = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
) -> None:
    """Score a recipe on speakers that its networks never met.

    Leaves one speaker out by default; nothing is chosen on what a fold holds out.

    Example: ser-batch cross-validate tfrecords/emodb -o validation/emodb --seeds 3
    """
    _prepare_tensorflow(verbose)
    from ser_batch.models.recipes import RecipeChanges, find_recipe
    from ser_batch.records.layout import open_records
    from ser_batch.records.partitions import parse_fold_rule
    from ser_batch.results.folds import cross_validation_lines
    from ser_batch.results.validation import Protocol, parallel_folds
    from ser_batch.results.validation import cross_validate as run

    began = time.perf_counter()
    protocol = Protocol(parse_fold_rule(by), folds, seeds, seed)
    chosen = find_recipe(recipe, RecipeChanges(epochs, normalise, class_weight))
    folder = open_records(records)
    with LocalEngine(parallel_folds(folder, workers), worker_bytes=None) as engine:
        finished = run(folder, out, chosen, protocol, engine, restart, lambda fold: _say(fold.line(), quiet))
    if not quiet:
        _print(cross_validation_lines(out))
    outcome = "already finished, nothing to do" if finished else f"written, in {time.perf_counter() - began:.1f} s"
    _say(f"{out}: {outcome}", quiet)


@app.command()
def compare(
    folder_a: Annotated[Path, typer.Argument(metavar="DIR_A", help="Cross-validation folder.")],
    folder_b: Annotated[Path, typer.Argument(metavar="DIR_B", help="Another, of the same recordings.")],
) -> None:
    """Say whether one cross-validation is better than another.

    The difference of UAR and WA, its interval, and a paired test over speakers.

    Example: ser-batch compare cv/seed cv/default
    """
    from ser_batch.results.comparison import compare as run
    from ser_batch.results.comparison import comparison_lines

    found = run(folder_a, folder_b)
    if found.task_differences:
        _say(f"warning: the protocols are not the same; from A to B: {'; '.join(found.task_differences)}")
    _print(comparison_lines(found, str(folder_a), str(folder_b)))


@app.command()
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
    from ser_batch.audio.corpora import name_speakers, speaker_notes
    from ser_batch.audio.recordings import list_sources
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
    with LocalEngine(workers) as engine, progress_bar("predicting", quiet) as show:
        engine.start(len(listing.recordings), "ser_batch.results.predictions")
        # Only now, beside the workers' own imports: these are as slow.
        from ser_batch.results.inference import InferOptions
        from ser_batch.results.inference import infer as run

        options = InferOptions(windows, table_format, restart, update, channels)
        result = run(listing, bundle, out, engine, options, show)
    which = str(model) if model else f"the model shipped with ser-batch {__version__}"
    _say(f"model: {which} ({bundle.short_fingerprint})", quiet)
    _report_table(result, out, listing.bases, time.perf_counter() - began, quiet)


def _report_table(result: "InferResult", out: str, bases: dict[str, str], secs: float, quiet: bool) -> None:
    from ser_batch.results.summaries import table_lines

    tally = result.tally
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    elif result.n_known:
        _say(f"{out}: {counted(result.n_known, 'recording')} known, {result.n_new:,} new", quiet)
    _list_errors(tally.first_errors, tally.errors, out, bases)
    for line in table_lines(tally, out, result.audio_secs, secs):
        _say(line, quiet)
    if tally.errors:
        raise typer.Exit(1 if tally.errors == tally.files else SOME_FAILED)


@app.command()
def info(
    path: Annotated[
        Path, typer.Argument(metavar="PATH", help="Records, bundle, prediction table or cross-validation.")
    ],
) -> None:
    """Say what a folder or a table is.

    Example: ser-batch info tfrecords/emodb
    """
    from ser_batch.results.description import describe

    _print(describe(path))


def _refuse_own_table(sources: list[str], out: str) -> None:
    """Raise a UsageError if the table to write is read, too: a shell's * gives it where it was written before."""
    for source in sources:
        if out != "-" and os.path.exists(out) and os.path.exists(source) and os.path.samefile(source, out):
            raise UsageError(
                f"SOURCE {source}: is the table to write; leave it out of the SOURCEs (*.wav in place of *), or write "
                "it into another folder"
            )


def _refuse_urls(arguments: list[str]) -> None:
    """Raise a UsageError if a URL is given for any argument or option: it would be taken for a local path."""
    for argument in arguments:
        option, _, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        if re.match("-[A-Za-z]", value):  # -oVALUE
            option, value = value[:2], value[2:]
        if problem := url_problem(value.removeprefix("@")):
            raise UsageError(f"{f'{option} {value}'.strip()}: {problem}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    try:
        _refuse_urls(sys.argv[1:] if arguments is None else arguments)
        app(arguments)
    except SystemExit as end:
        return int(end.code or 0)
    except SerBatchError as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, UsageError) else 1
    return 0
