"""What a stage asks of an engine: tasks mapped over workers, any of which may die.

A task is idempotent: an engine may run it again, and the outcome is the same.
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from ser_batch.runtime.process import expect_progress

# What a task may return, pickled: so much a pipe takes in one piece, so no worker dies with half an answer sent.
RESULT_BYTES = 16_000

Task = TypeVar("Task")
Result = TypeVar("Result")
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Task, Result]):
    """What became of a task.

    Attributes:
        task: as it was given.
        result: what the function returned; None where the worker died.
        death: how the worker died on it; None where it did not.
    """

    task: Task
    result: Result | None
    death: str | None = None


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


def crashing_items(engine: Engine, probe: Callable[[Sequence[Item]], object], items: Sequence[Item]) -> dict[Item, str]:
    """The items on which a worker dies, and how: found by halving the set until one is left.

    Args:
        engine: where to try.
        probe: does to a part of the items what killed the worker.
        items: the suspects; hashable.
    """
    deadly: dict[Item, str] = {}
    suspects: list[Sequence[Item]] = [items]
    while suspects:
        halves: list[Sequence[Item]] = []
        for outcome in engine.map(probe, suspects):
            if outcome.death is None:
                continue
            part = outcome.task
            if len(part) == 1:
                deadly[part[0]] = outcome.death
            else:
                halves += [part[: len(part) // 2], part[len(part) // 2 :]]
        suspects = halves
    return deadly


def heartbeat() -> None:
    """Give the task as long again as `expect_progress` gave it, if this is a worker process with such an alarm."""
    if signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        expect_progress()
