"""The commands build-records and verify."""

import time
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ser_batch import api
from ser_batch.api.inputs import local_path
from ser_batch.cli.console import _LISTED_ERRORS, SOME_FAILED, _list_errors, _print, _say, reporting
from ser_batch.cli.options import EngineName, Quiet, RayAddress, Restart, Seed, Sources, Workers
from ser_batch.formatting import part_named, pluralize
from ser_batch.runtime.resources import usable_cpus
from ser_batch.runtime.signals import resumable

if TYPE_CHECKING:
    from ser_batch.records.build import BuildResult


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
        Path | None, typer.Option(metavar="CSV", help="Rename labels: columns from and to; (drop) leaves them out.")
    ] = None,
    front_end: Annotated[str, typer.Option(metavar="NAME", help="Log-mel front end: speech or seed.")] = "speech",
    channel: Annotated[
        str, typer.Option(metavar="mean|N", help="Mean of all channels, or one channel (from 0).")
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
    workers: Workers = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    restart: Restart = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and write nothing.")] = False,
    quiet: Quiet = False,
) -> None:
    """Convert audio to sharded TFRecords of log-mels.

    Example: ser-batch build-records recordings/ -o tfrecords/mine
    """
    began = time.perf_counter()
    choice: dict[str, Any] = {
        "labels": labels,
        "label_map": label_map,
        "front_end": front_end,
        "channel": channel,
        "split": split,
        "fractions": fractions,
        "num_shards": num_shards,
        "seed": seed,
        "workers": workers,
    }
    with reporting("building", quiet) as report:
        if dry_run:
            from ser_batch.reports.info import describe_plan

            _print(describe_plan(*api.plan_records(source, **choice, report=report), workers or usable_cpus()))
            return
        with resumable():
            cluster: dict[str, Any] = {"engine": engine, "ray_address": ray_address}
            result = api.build_records(source, out, **choice, **cluster, restart=restart, report=report)
    _report_build(result, out, time.perf_counter() - began, quiet)


def _report_build(result: "BuildResult", out: Path, secs: float, quiet: bool) -> None:
    if result.was_finished:
        _say(f"{out}: already finished, nothing to do", quiet)
    for code, count in sorted(result.warnings.items()):
        _say(f"warning: {code}: {pluralize(count, 'recording')}", quiet)
    if result.n_errors:
        from ser_batch.reports.info import error_table

        rows = islice(error_table(result.records.path), 1, 1 + _LISTED_ERRORS)
        errors = [(part_named(file, start, end), reason) for file, start, end, _, reason, _ in rows]
        _list_errors(errors, result.n_errors, f"ser-batch info {out} --errors", result.bases)
    _say(f"{out}: {result.records.summary()}, in {secs:.1f} s", quiet)
    if result.n_errors:
        raise typer.Exit(SOME_FAILED)


def verify(
    records: Annotated[Path, typer.Argument(metavar="RECORDS", help="Record folder, from build-records.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE",
            help="Also compare the audio with this SOURCE; may be repeated.",
            show_default="no",
        ),
    ] = None,
    workers: Workers = None,
    engine: EngineName = "local",
    ray_address: RayAddress = None,
    quiet: Quiet = False,
) -> None:
    """Check a record folder.

    Checks every CRC, count, checksum and value, and that manifest and shards agree.

    Example: ser-batch verify tfrecords/emodb --source recordings/
    """
    from ser_batch.records.folder import open_records

    began = time.perf_counter()
    with reporting("verifying", quiet) as report:
        problems = api.verify(
            records, source=source or None, workers=workers, engine=engine, ray_address=ray_address, report=report
        )
    for problem in problems[:_LISTED_ERRORS]:
        _say(f"error: {problem}")
    if len(problems) > _LISTED_ERRORS:
        _say(f"error: and {len(problems) - _LISTED_ERRORS} more")
    secs = time.perf_counter() - began
    if problems:
        _say(f"{records}: {pluralize(len(problems), 'problem')} found, in {secs:.1f} s", quiet)
        raise typer.Exit(1)
    _say(f"{records}: no problem found: {open_records(local_path(records)).summary()}, in {secs:.1f} s", quiet)
