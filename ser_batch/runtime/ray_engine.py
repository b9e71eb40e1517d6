"""The Ray engine: tasks mapped over the nodes of a Ray cluster.

What a task writes lies on a file system that all nodes mount at the same path. What is done is decided by the files
there: the engine may run a task twice.
"""

import logging
import math
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

from ser_batch.errors import WorkerError
from ser_batch.formatting import pluralize
from ser_batch.runtime.engine import Outcome, Result, Task, check_result, watch_this_process
from ser_batch.runtime.process import keep_freed_memory, silence_native_code

# Tasks that are submitted at once, for each CPU: one runs and one waits.
_TASKS_PER_CPU = 2
# How long the number of nodes is used before it is asked again.
_NODES_SECS = 5.0
# How often a task is submitted again after its node was lost.
_MOST_LOSSES = 3


class RayEngine:
    """Worker processes of a Ray cluster, each with one task at a time and one CPU.

    Args:
        workers: how many tasks run at once; None: as many as the cluster has CPUs.
        address: of the cluster; None: from the environment variable ``RAY_ADDRESS``, or the one on this machine.
        worker_bytes: address space that each may use beyond what Ray itself takes; None: as much as there is.
    """

    def __init__(self, workers: int | None, address: str | None = None, worker_bytes: int | None = None) -> None:
        self.workers = workers or 1
        self._wanted, self._address, self._worker_bytes = workers, address, worker_bytes
        self._ray: Any = None
        self._n_running, self._n_nodes, self._counted = 0, 0, -math.inf

    def __enter__(self) -> "RayEngine":
        try:
            import ray
        except ImportError as error:
            raise WorkerError(
                '--engine ray: Ray is not installed; install it with pip install "ser-batch[ray]"'
            ) from error
        try:
            ray.init(address=self._address or "auto", log_to_driver=False, logging_level=logging.CRITICAL)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = self._address or os.environ.get("RAY_ADDRESS") or "this machine"
            raise WorkerError(
                f"--engine ray: no Ray cluster at {where}; start one with ray start --head, or give --ray-address"
            ) from error
        self._ray = ray
        self.workers = self._wanted or max(1, int(ray.cluster_resources().get("CPU", 1)))
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()  # cancels the tasks of this process

    def where(self) -> str:
        """Where tasks run, for progress: how many of them, and on how many nodes."""
        now = time.monotonic()
        if now - self._counted > _NODES_SECS:
            self._n_nodes, self._counted = sum(node["Alive"] for node in self._ray.nodes()), now
        return f"{pluralize(self._n_running, 'task')} on {pluralize(self._n_nodes, 'node')}"

    def start(self, workers: int, imports: str) -> None:
        """Do nothing: Ray starts workers as tasks come."""

    def map(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Outcome[Task, Result]]:
        """See `ser_batch.runtime.engine.Engine.map`."""
        remote = self._ray.remote(_run).options(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")
        waiting, running = iter(tasks), {}
        losses: dict[Any, int] = {}

        def submit(task: Task, n_losses: int) -> None:
            reference = remote.remote(function, task, os.getcwd(), self._worker_bytes)
            running[reference], losses[reference] = task, n_losses

        try:
            while True:
                for task in islice(waiting, max(0, _TASKS_PER_CPU * self.workers - len(running))):
                    submit(task, 0)
                if not running:
                    return
                self._n_running = len(running)
                (reference,), _ = self._ray.wait(list(running), num_returns=1)
                task, n_losses = running.pop(reference), losses.pop(reference)
                try:
                    outcome: Outcome[Task, Result] = Outcome(task, self._ray.get(reference))
                except self._ray.exceptions.NodeDiedError:
                    if n_losses < _MOST_LOSSES:
                        submit(task, n_losses + 1)
                        continue
                    outcome = Outcome(task, None, f"its node was lost {_MOST_LOSSES + 1} times")
                except self._ray.exceptions.WorkerCrashedError:
                    outcome = Outcome(task, None, "the worker crashed")
                except self._ray.exceptions.OutOfMemoryError:
                    outcome = Outcome(task, None, "the worker ran out of memory")
                except self._ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                yield outcome
        finally:
            for reference in running:
                with suppress(Exception):  # the cluster may be gone
                    self._ray.cancel(reference, force=True)


_is_set_up = False


def _run(function: Callable[[Task], Result], task: Task, folder: str, worker_bytes: int | None) -> Result:
    """Run a task in a worker of Ray, in the working directory of the process that gave it."""
    global _is_set_up
    if not _is_set_up:
        if worker_bytes is not None:
            pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
            limit = pages * os.sysconf("SC_PAGE_SIZE") + worker_bytes
            resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))
        watch_this_process()
        silence_native_code()
        keep_freed_memory()
        _is_set_up = True
    os.chdir(folder)
    return check_result(function(task))
