"""The local engine: tasks mapped over worker processes of this machine."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from queue import SimpleQueue
from typing import Any

from ser_batch.runtime.engine import Outcome, Result, Task
from ser_batch.runtime.process import STALL_SECS, keep_freed_memory, silence_native_code
from ser_batch.runtime.signals import cleanup_on_signal, signals_deferred

# One task runs and one waits, so that a worker does not idle while the caller looks at a result.
_TASKS_PER_WORKER = 2

# Many workers with one thread are faster than few with many threads.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# More memory than any recording needs; less than what a damaged header may claim.
AUDIO_WORKER_BYTES = 4 << 30

# What a worker sends: what a task returned, or what it raised.
_RETURNED, _RAISED = "returned", "raised"


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    tasks: deque[Any] = field(default_factory=deque)


class LocalEngine:
    """Processes on this machine, each with one task at a time and one numeric thread.

    Workers are spawned, never forked: the parent may hold TensorFlow and its threads. They live as long
    as the engine's ``with`` block. A worker that dies is replaced; its task's outcome says how it died.

    Args:
        workers: how many.
        worker_bytes: address space that each may use; None: as much as there is.
    """

    def __init__(self, workers: int, worker_bytes: int | None = AUDIO_WORKER_BYTES) -> None:
        self.workers = workers
        self._worker_bytes = worker_bytes
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._at_end = contextlib.ExitStack()

    def __enter__(self) -> "LocalEngine":
        self._at_end.enter_context(cleanup_on_signal(_kill_workers))
        return self

    def start(self, workers: int, imports: str) -> None:
        """Start so many workers, which import a module, while the caller finds out what there is to do.

        Args:
            workers: never more than the engine's.
            imports: the module that the first task's function is in.
        """
        while len(self._idle) < min(workers, self.workers):
            self._idle.append(self._start_worker(imports))

    def __exit__(self, *_: object) -> None:
        _end(self._idle)
        self._idle = []
        self._at_end.close()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Outcome[Task, Result]]:
        """See `ser_batch.runtime.engine.Engine.map`. A map inside another one's loop gets workers of its own."""
        coming = iter(tasks)
        again: deque[Task] = deque()
        pool, self._idle = self._idle, []
        try:
            while True:
                self._hand_out(pool, function, coming, again)
                busy = {worker.pipe: worker for worker in pool if worker.tasks}
                if not busy:
                    break
                for pipe in wait(list(busy)):
                    worker = busy[pipe]  # type: ignore[index]
                    try:
                        kind, result = worker.pipe.recv()
                    except (EOFError, OSError):  # OSError: it died in the middle of its answer
                        pool.remove(worker)
                        task = worker.tasks.popleft()
                        again.extend(worker.tasks)
                        yield Outcome(task, None, _reap_worker(worker))
                    else:
                        if kind == _RAISED:
                            raise result
                        yield Outcome(worker.tasks.popleft(), result)
        except BaseException:  # left early, too: what still runs is of no use
            _end(pool)
            raise
        _end(self._idle)
        self._idle = pool

    def _hand_out(
        self, pool: list[_Worker], function: Callable[[Task], Result], coming: Iterator[Task], again: deque[Task]
    ) -> None:
        for depth in range(1, _TASKS_PER_WORKER + 1):
            for number in range(self.workers):
                if number < len(pool) and len(pool[number].tasks) >= depth:
                    continue
                if again:
                    task = again.popleft()
                else:
                    try:
                        task = next(coming)
                    except StopIteration:
                        return
                if number == len(pool):
                    pool.append(self._start_worker())
                worker = pool[number]
                worker.tasks.append(task)
                with contextlib.suppress(BrokenPipeError):  # it died since: reading from it will tell
                    worker.pipe.send((function, task))

    def _start_worker(self, imports: str | None = None) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, self._worker_bytes, imports), daemon=True)
        resource_tracker.ensure_running()  # here, because starting it unblocks signals
        # Ctrl-C reaches the whole group: a worker must not see it before it ignores it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with signals_deferred():  # signals are deferred: an interrupted start would print a traceback
                process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        return _Worker(process, ours)


def _reap_worker(worker: _Worker) -> str:
    worker.pipe.close()
    worker.process.join()
    return _exit_reason(worker.process.exitcode or 0)


def _end(pool: list[_Worker]) -> None:
    for worker in pool:
        worker.process.kill()
    for worker in pool:
        worker.process.join()
        worker.pipe.close()


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        process.kill()


def _exit_reason(exit_code: int) -> str:
    if exit_code == -signal.SIGALRM:
        return f"the worker made no progress in {STALL_SECS:g} s"
    if exit_code == -signal.SIGKILL:
        return "the worker was killed (SIGKILL, possibly out of memory)"
    if exit_code < 0:
        return f"the worker crashed ({signal.Signals(-exit_code).name})"
    return f"the worker ended (exit code {exit_code})"


def _work(pipe: Connection, worker_bytes: int | None, imports: str | None) -> None:
    """Worker main loop; it exits when the parent process exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (worker_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    silence_native_code()
    keep_freed_memory()
    os.environ.update(_ONE_THREAD)  # before the first task imports NumPy
    waiting: SimpleQueue[Any] = SimpleQueue()
    # Tasks are taken off the pipe at once: parent and worker never both wait to write to a full one.
    threading.Thread(target=_receive, args=(pipe, waiting), daemon=True).start()
    if imports is not None:
        importlib.import_module(imports)
    while True:
        function, task = waiting.get()
        try:
            message: tuple[str, Any] = (_RETURNED, function(task))
        except Exception as error:
            error.add_note("in a worker process:\n" + traceback.format_exc())
            message = (_RAISED, error)
        try:
            pipe.send(message)
        except BrokenPipeError:
            return


def _receive(pipe: Connection, waiting: "SimpleQueue[Any]") -> None:
    try:
        while True:
            waiting.put(pipe.recv())
    except (EOFError, ConnectionResetError):
        os._exit(1)  # the parent is gone, and with it the lock on what this worker writes
