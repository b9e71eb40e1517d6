"""SIGINT and SIGTERM: they end the program at once, and it says one line."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = signal.SIGINT, signal.SIGTERM


class _Stops:
    """What becomes of a signal.

    Attributes:
        tidying: what to call before the program ends, the last first.
        resumable: whether the same command would go on where it was.
        waits: whether the program must not end now.
        number: a signal that arrived meanwhile.
    """

    def __init__(self) -> None:
        self.tidying: list[Callable[[], object]] = []
        self.resumable = False
        self.waits = False
        self.number: int | None = None

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        self.number = number
        if self.waits:
            return
        for again in _NUMBERS:
            signal.signal(again, lambda number, frame: os._exit(128 + number))  # should tidying up not end
        for tidy in reversed(self.tidying):
            with contextlib.suppress(Exception):
                tidy()
        word = "interrupted" if number == signal.SIGINT else "terminated"
        advice = "; to go on, run the same command again, without --restart" if self.resumable else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{word}{advice}\n".encode())
        os._exit(128 + number)


_STOPS = _Stops()


@contextmanager
def signals_handled() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the program in the body of the ``with`` block, with exit code 128 + their number.

    Nothing is unwound. A handler runs wherever the interpreter happens to be, and an exception that it raises
    in the middle of native code may be lost, printed, or leave that code in pieces. What is on disk survives
    SIGKILL at any moment; so it survives this.
    """
    for number in _NUMBERS:
        signal.signal(number, _STOPS.stop)
    try:
        yield
    finally:
        for number in _NUMBERS:  # nothing is left to stop but the interpreter's own end
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def cleanup_on_signal(tidy: Callable[[], object]) -> Iterator[None]:
    """See to it that a stop in the body of the ``with`` block calls this before the program ends.

    Args:
        tidy: must be fast; exceptions are ignored.
    """
    _STOPS.tidying.append(tidy)
    try:
        yield
    finally:
        _STOPS.tidying.remove(tidy)


@contextmanager
def resumable() -> Iterator[None]:
    """Let a stop in the body of the ``with`` block say how to go on: what the body does is kept as it gets done."""
    before, _STOPS.resumable = _STOPS.resumable, True
    try:
        yield
    finally:
        _STOPS.resumable = before


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Let a stop in the body of the ``with`` block, which must be quick, wait for its end.

    A mask of signals would not do: native libraries have threads, any of which takes one, and then Python's
    handler runs all the same.
    """
    _STOPS.waits = True
    try:
        yield
    finally:
        _STOPS.waits = False
        if _STOPS.number is not None:
            _STOPS.stop(_STOPS.number)
