"""One worker process for each GPU of this machine, with a ``TF_CONFIG`` that names all of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnContext, SpawnProcess
from typing import Any

from ser_batch.errors import SerBatchError, UsageError, WorkerError
from ser_batch.runtime.local import end_with_parent, exit_reason
from ser_batch.runtime.process import native_code_silenced, prepare_tensorflow
from ser_batch.runtime.signals import cleanup_on_signal, signals_deferred

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus() -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` has to be for each GPU that TensorFlow can use here."""
    import tensorflow as tf  # here: a worker process imports this module before its environment is set

    with native_code_silenced():
        n_gpus = len(tf.config.list_physical_devices("GPU"))
    given = [name for name in os.environ.get(_VISIBLE, "").split(",") if name]
    return given[:n_gpus] if given else [str(number) for number in range(n_gpus)]


@dataclass(frozen=True)
class _Done:
    """The last message of a worker: what the function returned, or its error."""

    result: Any = None
    error: SerBatchError | OSError | None = None


def run_on_gpus(
    function: Callable[..., Any], arguments: Mapping[str, Any], gpus: Sequence[str], report: Callable[[Any], None]
) -> Any:
    """Call a function in a worker process for each GPU, with a ``TF_CONFIG`` that names all of them.

    Args:
        function: takes the arguments and ``report``; importable from a module.
        arguments: of the function; picklable.
        gpus: of `visible_gpus`.
        report: receives the events of the first worker.

    Returns:
        what the function returned in the first worker.

    Raises:
        UsageError: there is no GPU.
        SerBatchError: the first error of a worker; all workers are ended.
        WorkerError: a worker has ended.
    """
    if not gpus:
        raise UsageError("--strategy mirrored: TensorFlow finds no GPU on this machine; give --strategy single")
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(len(gpus))]
    with _workers(function, arguments, addresses, gpus) as workers:
        number_of: dict[object, int] = {messages: number for number, (_, messages) in enumerate(workers)}
        results: dict[int, Any] = {}
        while len(results) < len(gpus):
            for messages in wait([messages for number, (_, messages) in enumerate(workers) if number not in results]):
                number = number_of[messages]
                message = _received(*workers[number], gpus[number])
                if not isinstance(message, _Done):
                    report(message)
                elif message.error:
                    raise message.error
                else:
                    results[number] = message.result
        return results[0]


def _received(process: SpawnProcess, messages: Connection, gpu: str) -> Any:
    """The next message of a worker.

    Raises:
        WorkerError: it has ended.
    """
    try:
        return messages.recv()
    except EOFError as error:
        process.join()
        raise WorkerError(
            f"training stopped at the process of GPU {gpu}: {exit_reason(process.exitcode or 0)}; start the command "
            "again: it continues after the last epoch"
        ) from error


@contextmanager
def _workers(
    function: Callable[..., Any], arguments: Mapping[str, Any], addresses: Sequence[str], gpus: Sequence[str]
) -> Iterator[list[tuple[SpawnProcess, Connection]]]:
    """The worker processes, and the connections from which their events come; they are killed at the end."""
    context, started = SpawnContext(), list[tuple[SpawnProcess, Connection]]()

    def kill() -> None:
        for process, _ in started:
            process.kill()

    with cleanup_on_signal(kill):
        try:
            for number, gpu in enumerate(gpus):
                task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": number}}
                receiver, sender = context.Pipe(duplex=False)
                environment = {"TF_CONFIG": json.dumps(task), _VISIBLE: gpu}
                process = context.Process(target=_work, args=(function, arguments, environment, sender), daemon=True)
                with signals_deferred():
                    process.start()
                    started.append((process, receiver))
                sender.close()
            yield started
        finally:
            kill()
            for process, receiver in started:
                process.join()
                receiver.close()


def _work(
    function: Callable[..., Any], arguments: Mapping[str, Any], environment: dict[str, str], to: Connection
) -> None:
    """The work of one worker process, which ends when its parent process ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.environ.update(environment)
    prepare_tensorflow(verbose="TF_CPP_MIN_LOG_LEVEL" not in os.environ)  # the command sets it, without --verbose
    is_first = json.loads(environment["TF_CONFIG"])["task"]["index"] == 0
    try:
        done = _Done(function(**arguments, report=to.send if is_first else lambda event: None))
    except (SerBatchError, OSError) as error:
        done = _Done(error=error)
    to.send(done)
    signal.pause()  # an end would break the connection of the other workers, which may not have finished


def _free_ports(count: int) -> list[int]:
    """Numbers of ports of this machine that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
