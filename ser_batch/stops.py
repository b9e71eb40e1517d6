"""A run that SIGINT or SIGTERM stops: it ends soon, and says one line, wherever the signal met it."""

import signal
import sys
from types import FrameType, TracebackType
from typing import NoReturn

# How long what a signal raised may go unnoticed before it is raised again.
_AGAIN_SECS = 0.1


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


class Stops:
    """Raises `Stopped` in the body of its ``with`` block, and swallows whatever became of it there.

    A handler raises wherever the interpreter happens to be. Native code may drop that, print it, or make an
    error of its own of it. So it is raised again as long as nothing handles it, and no hook prints it.

    Attributes:
        number: the first signal that arrived; None: none.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None

    def __enter__(self) -> "Stops":
        self._hooks = sys.excepthook, sys.unraisablehook
        signal.signal(signal.SIGALRM, self._again)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._stop)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> bool:
        for number in (signal.SIGINT, signal.SIGTERM):  # too late to stop anything but the interpreter's own end
            signal.signal(number, lambda number, frame: None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        sys.excepthook, sys.unraisablehook = self._hooks
        return self.number is not None

    def _stop(self, number: int, frame: FrameType | None) -> NoReturn:
        self.number = self.number or signal.Signals(number)
        sys.excepthook = lambda kind, error, tb: None
        sys.unraisablehook = lambda ignored: None
        signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECS, _AGAIN_SECS)
        raise Stopped

    def _again(self, number: int, frame: FrameType | None) -> None:
        error = sys.exception()
        while error is not None:
            if isinstance(error, Stopped):
                return  # what it stopped is being tidied up
            error = error.__context__
        raise Stopped
