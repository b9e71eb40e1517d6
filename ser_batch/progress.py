"""What a person sees while they wait: on standard error, and only when that is a terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ser_batch.stops import tidied


@contextmanager
def progress_bar(title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar with count, rate and remaining time; call what it yields with (done, total)."""
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
    # Redirected, what is printed meanwhile would not reach where the user sent it.
    bar = Progress(*columns, console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    task = bar.add_task(title, total=None, rate="")
    before: int | None = None  # what an earlier run had finished says nothing of this one's rate

    def show(done: int, total: int) -> None:
        nonlocal before
        if before is None:
            before = done
            bar.start()  # not earlier: lines may be printed until then
        rate = (done - before) / (bar.tasks[task].elapsed or 1.0)
        bar.update(task, completed=done, total=total, rate=f"{rate:,.0f}/s")

    try:
        with tidied(bar.stop):
            yield show
    finally:
        bar.stop()
