"""The local engine: tasks mapped over worker processes of this machine."""

import contextlib
import importlib
import multiprocessing
import os
import resource
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnContext
from typing import Any

from ser_batch.errors import WorkerError
from ser_batch.runtime.engine import STALL_SECS, Outcome, Result, Task, check_result, watch_this_process
from ser_batch.runtime.process import keep_freed_memory, native_code_silenced, silence_native_code
from ser_batch.runtime.signals import cleanup_on_signal, signals_deferred

# One task runs and one waits, so that a worker does not idle while the caller looks at a result.
_TASKS_PER_WORKER = 2

# Many workers with one thread are faster than few with many threads.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# More memory than any recording needs, and less than a damaged header may ask for.
AUDIO_WORKER_BYTES = 4 << 30


class LocalEngine:
    """Processes on this machine, each with one task at a time and one numeric thread.

    Workers are spawned, not forked, because the parent may have loaded TensorFlow and its threads. They end with the
    engine's ``with`` block. A worker that ends early is replaced; the outcome of its task has the reason.

    Args:
        workers: how many.
        worker_bytes: address space that each may use; None: as much as there is.
    """

    def __init__(self, workers: int, worker_bytes: int | None = AUDIO_WORKER_BYTES) -> None:
        self.workers = workers
        self._worker_bytes = worker_bytes
        self._idle: list[_Worker] = []
        self._at_end = contextlib.ExitStack()

    def __enter__(self) -> "LocalEngine":
        self._at_end.enter_context(cleanup_on_signal(_kill_workers))
        return self

    def where(self) -> str:
        """Where tasks run, for progress: empty, as it is this machine."""
        return ""

    def start(self, workers: int, imports: str) -> None:
        """Start workers that import a module, while the caller prepares the tasks.

        Args:
            workers: how many; at most the engine's.
            imports: the module that the first task's function is in.
        """
        while len(self._idle) < min(workers, self.workers):
            self._idle.append(_Worker(self._worker_bytes, imports))

    def __exit__(self, *_: object) -> None:
        _end(self._idle)
        self._idle = []
        self._at_end.close()

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Outcome[Task, Result]]:
        """See `ser_batch.runtime.engine.Engine.map`. A map inside another one's loop gets workers of its own."""
        waiting, again = iter(tasks), deque[Task]()
        pool, self._idle = self._idle, []
        try:
            while True:
                self._hand_out(pool, function, waiting, again)
                if not (heads := [worker.tasks[0][1] for worker in pool if worker.tasks]):
                    break
                wait(heads, return_when=FIRST_COMPLETED)
                for worker in [worker for worker in pool if worker.tasks and worker.tasks[0][1].done()]:
                    task, future = worker.tasks.popleft()
                    try:
                        outcome = Outcome(task, future.result())
                    except BrokenProcessPool:
                        worker.check_started()
                        pool.remove(worker)
                        again.extend(task for task, _ in worker.tasks)
                        outcome = Outcome(task, None, worker.end())
                    yield outcome
        except BaseException:  # also when the caller stops early: running tasks are not needed
            _end(pool)
            raise
        _end(self._idle)
        self._idle = pool

    def _hand_out(
        self, pool: "list[_Worker]", function: Callable[[Task], Result], waiting: Iterator[Task], again: deque[Task]
    ) -> None:
        for depth in range(1, _TASKS_PER_WORKER + 1):
            for number in range(self.workers):
                if number < len(pool) and len(pool[number].tasks) >= depth:
                    continue
                if not (taken := [again.popleft()] if again else list(islice(waiting, 1))):
                    return
                if number == len(pool):
                    pool.append(_Worker(self._worker_bytes))
                try:
                    pool[number].submit(function, taken[0])
                except BrokenProcessPool:
                    if pool[number].tasks:  # it died at its first task, whose outcome `map` takes next
                        again.append(taken[0])
                        return
                    pool[number].end()  # it died while it was idle
                    pool[number] = _Worker(self._worker_bytes)
                    pool[number].submit(function, taken[0])


class _Worker:
    """One process in a pool of its own: it shares no pipe and no lock, so its end harms no other worker.

    Tasks run in order, so the first unfinished one is the task at which a worker ended.

    Args:
        worker_bytes: see `LocalEngine`.
        imports: a module to import before the first task.
    """

    def __init__(self, worker_bytes: int | None, imports: str = __name__) -> None:
        with native_code_silenced():  # it would warn of semaphores that a stop leaves to it
            resource_tracker.ensure_running()  # here, because starting it unblocks signals
        self.tasks: deque[tuple[Any, Future[Any]]] = deque()
        self._pool = ProcessPoolExecutor(1, SpawnContext(), _set_up, (worker_bytes,))
        before = set(multiprocessing.active_children())
        # Ctrl-C reaches the whole group: a worker must not receive it before it ignores it.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            with signals_deferred():  # an interrupted start would print a traceback
                self._started = self._pool.submit(_import, imports)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        (self._process,) = set(multiprocessing.active_children()) - before

    def submit(self, function: Callable[[Any], Any], task: Any) -> None:
        """Let it do a task after those that it has.

        Raises:
            BrokenProcessPool: it is dead.
        """
        self.tasks.append((task, self._pool.submit(_run, function, task)))

    def check_started(self) -> None:
        """Raise a WorkerError if a dead worker ended before its first task: no task caused that."""
        if self._started.exception() is not None:
            raise WorkerError(
                f"worker processes cannot be started: {self.end()}; a Python script must call ser_batch under "
                'if __name__ == "__main__":'
            )

    def end(self) -> str:
        """End it, if it is not dead yet; the reason why it ended."""
        self._process.kill()
        self._process.join()
        self._pool.shutdown()
        return exit_reason(self._process.exitcode or 0)


def _end(pool: list[_Worker]) -> None:
    for worker in pool:
        worker.end()


def _kill_workers() -> None:
    for process in multiprocessing.active_children():
        process.kill()


def exit_reason(exit_code: int) -> str:
    """Why a worker process ended, from its exit code; negative: the number of a signal."""
    if exit_code == -signal.SIGALRM:
        return f"the worker made no progress in {STALL_SECS:g} s"
    if exit_code == -signal.SIGKILL:
        return "the worker was killed (SIGKILL, possibly out of memory)"
    if exit_code < 0:
        return f"the worker crashed ({signal.Signals(-exit_code).name})"
    return f"the worker ended (exit code {exit_code})"


def _set_up(worker_bytes: int | None) -> None:
    """Set up a worker process; it exits when its parent process exits."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if worker_bytes is not None:
        resource.setrlimit(resource.RLIMIT_AS, (worker_bytes, resource.getrlimit(resource.RLIMIT_AS)[1]))
    watch_this_process()
    silence_native_code()
    keep_freed_memory()
    os.environ.update(_ONE_THREAD)  # before the first task imports NumPy
    threading.Thread(target=end_with_parent, daemon=True).start()


def _import(module: str) -> None:
    importlib.import_module(module)  # nothing is returned: a module cannot be pickled


def end_with_parent() -> None:
    """Wait for the end of the parent process, then end this one: the target of a thread of a worker process."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)  # the lock on this worker's output ended with the parent


def _run(function: Callable[[Task], Result], task: Task) -> Result:
    return check_result(function(task))
