"""Engines without processes, for tests whose subject is what a task does, or what becomes of its end."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ser_batch.runtime.engine import Outcome


class Inline:
    workers = 1

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        return (Outcome(task, function(task)) for task in tasks)


class Dying(Inline):
    """Whose workers end on every task of one function, and do nothing with others; None: they end on all."""

    def __init__(self, dies_at: Callable[[Any], Any] | None = None) -> None:
        self._dies_at = dies_at

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        failure = "the worker was killed" if self._dies_at in (None, function) else None
        return (Outcome(task, None, failure) for task in tasks)
