"""Terminal output: lines, CSV, and the progress bar on stderr."""

import errno
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING

from ser_batch.events import Note, Progress, Report
from ser_batch.runtime.signals import cleanup_on_signal
from ser_batch.storage.filesystems import with_whole_urls
from ser_batch.storage.writing import standard_output, write_rows

if TYPE_CHECKING:
    from rich.progress import TaskID

    from ser_batch.evaluation.cross_validate import FoldReport
    from ser_batch.training.trainer import Epoch


class ProgressBar:
    """A progress bar on a terminal, with count, rate and remaining time of one step at a time."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        # No redirection: other output must still reach the destination that the user chose.
        console = Console(stderr=True)
        self._bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)
        self._task: TaskID | None = None
        self._step = ""
        self._before = 0  # the rate counts only items of this run

    def show(self, step: str, done: int, total: int, figures: str = "") -> None:
        """Update the bar, or begin the bar of another step."""
        if self._task is None or step != self._step:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._step, self._before = step, done
            self._task = self._bar.add_task(step, total=None, rate="")
            self._bar.start()  # only now, because lines may be printed before
        secs = next(task.elapsed for task in self._bar.tasks if task.id == self._task) or 0.0
        rate = _rate(done - self._before, secs)
        self._bar.update(self._task, description=f"{step}{figures}", completed=done, total=total, rate=rate)

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Remove the bar from the terminal."""
        self._bar.stop()


def _rate(done: int, secs: float) -> str:
    if not done or not secs:
        return ""
    if done < secs:
        return f"{secs / done:.1f} s each"
    return f"{done / secs:,.0f}/s" if done >= 10 * secs else f"{done / secs:.1f}/s"


@contextmanager
def reporting(title: str, quiet: bool) -> Iterator[Report]:
    """Print the events that a function of `ser_batch.api` reports: notes and folds as lines, progress as a bar.

    Args:
        title: of the bar.
        quiet: print nothing.
    """
    bar = None if quiet or not sys.stderr.isatty() else ProgressBar()

    def report(event: "Note | Progress | Epoch | FoldReport") -> None:
        if isinstance(event, Note):
            line(f"warning: {event.text}" if event.is_warning else event.text)
        elif isinstance(event, Progress):
            show(event.step or title, event.done, event.total, f" ({event.where})" if event.where else "")
        else:
            show_step(event)

    def show_step(event: "Epoch | FoldReport") -> None:
        from ser_batch.training.trainer import Epoch

        if isinstance(event, Epoch):
            show(f"{title} {event.part}".strip(), event.number, event.of, event.figures())
        else:
            line(event.line())

    def line(text: str) -> None:
        if bar:
            bar.line(_printable(text))
        else:
            _say(text, quiet)

    def show(step: str, done: int, total: int, figures: str = "") -> None:
        if bar:
            bar.show(step, done, total, figures)

    if bar is None:
        yield report
        return
    try:
        with cleanup_on_signal(bar.stop):
            yield report
    finally:
        bar.stop()


SOME_FAILED = 3
_LISTED_ERRORS = 20
_ROWS_AT_ONCE = 1024
_MISSING = os.strerror(errno.ENOENT)


def _say(line: str, quiet: bool = False) -> None:
    if not quiet:
        print(_printable(line), file=sys.stderr)


def _printable(line: str) -> str:
    """A line without line breaks and terminal control characters, which a file name may have."""
    line = with_whole_urls(line)
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


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
