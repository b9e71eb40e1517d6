"""SIGINT and SIGTERM: the program ends at once and prints one line."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_NUMBERS = signal.SIGINT, signal.SIGTERM


class _State:
    """How a signal is handled.

    Attributes:
        cleanups: functions to call before the program ends, the last first.
        resumable: whether the same command would continue the work.
        is_deferred: whether the program must not end now.
        number: the signal that arrived.
    """

    def __init__(self) -> None:
        self.cleanups: list[Callable[[], object]] = []
        self.resumable = False
        self.is_deferred = False
        self.number: int | None = None

    def stop(self, number: int, frame: FrameType | None = None) -> None:
        self.number = number
        if self.is_deferred:
            return
        for again in _NUMBERS:
            signal.signal(again, lambda number, frame: os._exit(128 + number))  # in case a cleanup hangs
        for cleanup in reversed(self.cleanups):
            with contextlib.suppress(Exception):
                cleanup()
        word = "interrupted" if number == signal.SIGINT else "terminated"
        advice = "; to go on, run the same command again, without --restart" if self.resumable else ""
        with contextlib.suppress(OSError):
            os.write(2, f"{word}{advice}\n".encode())
        os._exit(128 + number)


_STATE = _State()


@contextmanager
def signals_handled() -> Iterator[None]:
    """In the ``with`` block, SIGINT and SIGTERM end the program with exit code 128 + their number.

    Exits without unwinding: raising an exception from a signal handler is unsafe while native code runs. The files on
    disk are valid at any moment, because they also have to survive SIGKILL.
    """
    for number in _NUMBERS:
        signal.signal(number, _STATE.stop)
    try:
        yield
    finally:
        for number in _NUMBERS:  # only the interpreter's own shutdown is left
            signal.signal(number, signal.SIG_IGN)


@contextmanager
def cleanup_on_signal(cleanup: Callable[[], object]) -> Iterator[None]:
    """Call a function if a signal ends the program in the ``with`` block.

    Args:
        cleanup: must be fast; exceptions are ignored.
    """
    _STATE.cleanups.append(cleanup)
    try:
        yield
    finally:
        _STATE.cleanups.remove(cleanup)


@contextmanager
def resumable() -> Iterator[None]:
    """If a signal ends the program in the ``with`` block, print that the same command continues the work."""
    before, _STATE.resumable = _STATE.resumable, True
    try:
        yield
    finally:
        _STATE.resumable = before


@contextmanager
def signals_deferred() -> Iterator[None]:
    """Defer signals to the end of the ``with`` block, which must be fast.

    A signal mask is not enough: a thread of a native library can receive the signal, and Python's handler then runs.
    """
    _STATE.is_deferred = True
    try:
        yield
    finally:
        _STATE.is_deferred = False
        if _STATE.number is not None:
            _STATE.stop(_STATE.number)
