"""From a listing to a finished prediction table."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ser_batch.audio.recordings import Listing
from ser_batch.errors import OutputError
from ser_batch.files import write_rows
from ser_batch.models.bundles import Bundle
from ser_batch.results.predictions import Prediction, load_predictor, predict_recordings
from ser_batch.results.tables import clock, open_table, read_summary, table_columns, table_row
from ser_batch.tasks import Engine


@dataclass(frozen=True)
class InferOptions:
    """How a table is made; none of it changes what is in it.

    Attributes:
        batch_size: windows the network sees at once.
        restart: make the table anew, whatever is there.
    """

    batch_size: int = 32
    restart: bool = False


@dataclass(frozen=True)
class InferResult:
    """What became of an inference.

    Attributes:
        n_rows: rows in the table, one per input.
        errors: (file, reason) of each row without a prediction.
        was_finished: the table had been finished before.
    """

    n_rows: int
    errors: list[tuple[str, str]]
    was_finished: bool


def infer(
    listing: Listing,
    bundle: Bundle,
    out: str,
    engine: Engine,
    options: InferOptions,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> InferResult:
    """Predict everything in a listing into a table.

    Args:
        listing: from `ser_batch.audio.recordings.list_source`; what could not be listed gets a row too, at the end.
        bundle: the model.
        out: path of the CSV; ``-`` for standard output.
        engine: where audio is decoded and transformed.
        options: how.
        on_progress: called with (rows done, rows in all).

    Raises:
        OutputError: the table cannot be written, or is there and was made from something else.
        BundleError: the bundle is damaged.
    """
    if finished := _finished(listing, bundle, out, options):
        return finished
    network = load_predictor(bundle)
    total = len(listing.recordings) + len(listing.rejections)
    errors: list[tuple[str, str]] = []
    done = 0

    def predictions() -> Iterator[Prediction]:
        yield from predict_recordings(listing.recordings, bundle.front_end, network, engine, options.batch_size)
        for rejection in listing.rejections:
            yield Prediction(rejection.file, error=rejection.reason)

    with open_table(out, sys.stdout) as table:
        write_rows(table, [table_columns(bundle.labels)])
        for prediction in predictions():
            write_rows(table, [table_row(prediction, bundle.labels, bundle.short_fingerprint)])
            if prediction.error:
                errors.append((prediction.file, prediction.error))
            done += 1
            on_progress(done, total)
    return InferResult(done, errors, False)


def _finished(listing: Listing, bundle: Bundle, out: str, options: InferOptions) -> InferResult | None:
    """The result, if the table is there and was made from the same; an OutputError if from something else."""
    if out == "-":
        return None
    path = Path(out)
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: no such folder; make it first, or name another --out")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a CSV file with --out")
    if not path.exists():
        return None
    table = read_summary(path)
    if options.restart:
        return None
    wanted = (*(recording.file for recording in listing.recordings), *(one.file for one in listing.rejections))
    changed = []
    if table.models != {bundle.short_fingerprint} or table.labels != bundle.labels:
        changed.append(f"the model ({', '.join(sorted(table.models))}, now {bundle.short_fingerprint})")
    parts = [clock(recording.start_secs) for recording in listing.recordings]
    if table.files != wanted:
        came, went = len(set(wanted) - set(table.files)), len(set(table.files) - set(wanted))
        changed.append(f"the files ({came} came, {went} went)" if came or went else "the files' order")
    elif any(start not in {"", part} for start, part in zip(table.starts, parts, strict=False)):
        changed.append("the parts of the files")
    table_ns = path.stat().st_mtime_ns
    newer = sum(_mtime_ns(recording.path) > table_ns for recording in listing.recordings)
    if newer:
        changed.append(f"the audio ({newer} files are newer than the table)")
    if changed:
        raise OutputError(
            f"{path}: was made from something else; what differs: {'; '.join(changed)}. "
            "Give --restart to make it anew, or name another --out"
        )
    return InferResult(len(wanted), table.errors, True)


def _mtime_ns(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except (OSError, ValueError):
        return 0
