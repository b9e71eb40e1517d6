"""The interface of engines: tasks mapped over workers, any of which may end early.

A task is idempotent: an engine may run it again, and the outcome is the same.
"""

import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

# The most bytes that a task may return, pickled: a pipe takes them at once, so no worker ends with half a result sent.
RESULT_BYTES = 16_000

Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Result]):
    """The end of a task.

    Attributes:
        task: as it was given.
        result: what the function returned; None if the worker process ended before.
        failure: why the worker ended; None if it did not.
    """

    task: Task
    result: Result | None
    failure: str | None = None


class Engine(Protocol):
    """Maps a function over tasks, each in a process of its own or on another machine.

    Attributes:
        workers: how many tasks run at once.
    """

    workers: int

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Outcome[Task, Result]]:
        """The outcomes in the order in which tasks end. What the function raises is raised here.

        Args:
            function: importable by name in a worker, or a `functools.partial` of such.
            tasks: read as workers become free.
        """
        ...


def check_result(result: Result) -> Result:
    """The result of a task, after a check of its size."""
    size = len(pickle.dumps(result))
    if size > RESULT_BYTES:
        raise RuntimeError(f"a task returned {size:,} bytes; it may return {RESULT_BYTES:,}, and writes the rest")
    return result


def crashing_items(engine: Engine, probe: Callable[[Sequence[Item]], object], items: Sequence[Item]) -> dict[Item, str]:
    """The items on which a worker ends, and why: found by halving the set until one is left.

    Args:
        engine: where to try.
        probe: does to a part of the items what ended the worker.
        items: the candidates; hashable.
    """
    crashing: dict[Item, str] = {}
    candidates: list[Sequence[Item]] = [items]
    while candidates:
        halves: list[Sequence[Item]] = []
        for outcome in engine.map(probe, candidates):
            if outcome.failure is None:
                continue
            part = outcome.task
            if len(part) == 1:
                crashing[part[0]] = outcome.failure
            else:
                halves += [part[: len(part) // 2], part[len(part) // 2 :]]
        candidates = halves
    return crashing


# Seconds without progress after which a worker counts as hung.
STALL_SECS = 60.0


def watch_this_process() -> None:
    """Let `watched` end this process: called by an engine in each of its workers."""
    global _is_worker
    _is_worker = True


_is_worker = False


@contextmanager
def watched() -> Iterator[None]:
    """End this worker if `STALL_SECS` pass in the ``with`` block without a `heartbeat`; other processes are not ended.

    Native code that hangs cannot be interrupted from Python. The alarm's default action ends the process; the engine
    then reports which task it was on.
    """
    signal.setitimer(signal.ITIMER_REAL, STALL_SECS if _is_worker else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def heartbeat() -> None:
    """Report progress to `watched`, if it is active in this process."""
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        signal.setitimer(signal.ITIMER_REAL, STALL_SECS)
