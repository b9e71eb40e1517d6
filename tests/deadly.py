"""An engine whose workers really end themselves when they meet one file."""

import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from ser_batch.corpus.table import Recording
from ser_batch.inference.embeddings import Block
from ser_batch.records.plan import ShardTask
from ser_batch.runtime.engine import Outcome
from ser_batch.runtime.local import LocalEngine


def touched(task: Any) -> set[str]:
    """The files that a task of any stage will open."""
    if isinstance(task, ShardTask):
        return {recording.file for number, recording in task.numbered() if number not in task.refused}
    if isinstance(task, Block):
        return {recording.file for recording in task.recordings}
    if not isinstance(task, Sequence):
        return set()
    items = [item for part in [task, *task] if isinstance(part, Sequence) for item in (part, *part)]
    return {item.file for item in items if isinstance(item, Recording)}


def die_on(task: Any, function: Any, deadly: str, signum: int) -> Any:
    if deadly in touched(task):
        os.kill(os.getpid(), signum)
    return function(task)


def hang_on(task: Any, function: Any, deadly: str, secs: float) -> Any:
    if deadly in touched(task):
        signal.setitimer(signal.ITIMER_REAL, secs)
        while True:
            pass
    return function(task)


@dataclass
class HangingEngine:
    inner: LocalEngine
    deadly: str
    secs: float = 0.3
    workers: int = 2

    def map(self, function: Any, tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        return self.inner.map(partial(hang_on, function=function, deadly=self.deadly, secs=self.secs), tasks)


@dataclass
class DeadlyEngine:
    inner: LocalEngine
    deadly: str
    signum: int
    workers: int = 2

    def map(self, function: Any, tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        return self.inner.map(partial(die_on, function=function, deadly=self.deadly, signum=self.signum), tasks)
