"""Terminal output: lines, CSV, and the progress bar on stderr."""

import errno
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ser_batch.events import Note, Progress, Report
from ser_batch.runtime.signals import cleanup_on_signal
from ser_batch.storage.writing import standard_output, write_rows

if TYPE_CHECKING:
    from ser_batch.evaluation.cross_validate import FoldReport
    from ser_batch.training.trainer import Epoch


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A progress bar with count, rate and remaining time; yields a function of (done, total) that updates it."""
    if quiet or not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    # No redirection: other output must still reach the destination that the user chose.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task(title, total=None, rate="")
    before: int | None = None  # the rate counts only items of this run

    def show(done: int, total: int) -> None:
        nonlocal before
        if before is None:
            before = done
            bar.start()  # only now, because lines may be printed before
        rate = (done - before) / (bar.tasks[task].elapsed or 1.0)
        bar.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

    try:
        with cleanup_on_signal(bar.stop):
            yield show
    finally:
        bar.stop()


@contextmanager
def reporting(title: str, quiet: bool, steps: bool = True) -> Iterator[Report]:
    """Print the events that a function of `ser_batch.api` reports: notes as lines, progress as a bar.

    Args:
        title: of the bar.
        quiet: print nothing.
        steps: print a line for each epoch and fold.
    """

    def report(event: "Note | Progress | Epoch | FoldReport") -> None:
        if isinstance(event, Progress):
            show(event.done, event.total)
        elif isinstance(event, Note):
            _say(f"warning: {event.text}" if event.is_warning else event.text, quiet)
        else:
            _say(event.line(), quiet or not steps)

    with progress_bar(title, quiet) as show:
        yield report


SOME_FAILED = 3
_LISTED_ERRORS = 20
_ROWS_AT_ONCE = 1024
_MISSING = os.strerror(errno.ENOENT)


def _say(line: str, quiet: bool = False) -> None:
    if not quiet:
        # A file name may contain line breaks or terminal control characters.
        print("".join(c if c.isprintable() else ascii(c)[1:-1] for c in line), file=sys.stderr)


def _print(lines: Iterable[str]) -> None:
    with standard_output() as file:
        file.write("".join(f"{line}\n" for line in lines).encode(errors="backslashreplace"))


def _print_csv(rows: Iterable[Sequence[str]]) -> None:
    left = iter(rows)
    with standard_output() as file:
        while some := list(islice(left, _ROWS_AT_ONCE)):
            text = io.StringIO(newline="")
            write_rows(text, some)
            file.write(text.getvalue().encode())


def _list_errors(errors: Sequence[tuple[str, str]], total: int, where: str, bases: dict[str, str]) -> None:
    for name, reason in errors[:_LISTED_ERRORS]:
        _say(f"error: {name}: {reason}")
    if total > _LISTED_ERRORS:
        _say(f"error: and {total - _LISTED_ERRORS} more, all in {where}")
    if any(_MISSING in reason and not os.path.isabs(name) for name, reason in errors):
        for name, folder in bases.items():
            _say(f"error: relative paths in {name} were searched in {folder}")
