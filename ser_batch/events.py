"""Events of a command: what the functions of `ser_batch.api` report while they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ser_batch.evaluation.cross_validate import FoldReport
    from ser_batch.training.trainer import Epoch


@dataclass(frozen=True)
class Note:
    """A one-line message for the user.

    Attributes:
        text: the line.
        is_warning: a warning (the result may be worse than expected), or information.
    """

    text: str
    is_warning: bool = True


@dataclass(frozen=True)
class Progress:
    """Progress of a command.

    Attributes:
        done, total: number of recordings; for `verify`, of examples and audio files.
        step: what is done, in a few words; empty: the work of the command.
        where: where it is done, for example ``4 tasks on 2 nodes``; empty: on this machine.
    """

    done: int
    total: int
    step: str = ""
    where: str = ""


# Receives a `Note`, a `Progress`, an `Epoch` of a training, or a `FoldReport` of a cross-validation.
Report = Callable[["Note | Progress | Epoch | FoldReport"], None]


def ignore(event: object) -> None:
    """Do nothing with an event."""


def _here() -> str:
    return ""


def progress_of(report: Report, step: str = "", where: Callable[[], str] = _here) -> Callable[[int, int], Any]:
    """A function that reports the numbers of done and of all recordings."""
    return lambda done, total: report(Progress(done, total, step, where()))


def steps_of(report: Report, where: Callable[[], str] = _here) -> Callable[[int, int, str], Any]:
    """A function that reports the numbers of done and of all tasks of a step."""
    return lambda done, total, step: report(Progress(done, total, step, where()))
