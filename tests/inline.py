"""Engines without processes, for tests whose subject is what a task does, or what becomes of its end."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ser_batch.runtime.engine import Outcome


class Inline:
    workers = 1

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        return (Outcome(task, function(task)) for task in tasks)


class Dying(Inline):
    """Whose workers end on every task of one function; None: of every function."""

    def __init__(self, dies_at: Callable[[Any], Any] | None = None) -> None:
        self._dies_at = dies_at

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        if self._dies_at not in (None, function):
            return super().map(function, tasks)
        return (Outcome(task, None, "the worker was killed") for task in tasks)
