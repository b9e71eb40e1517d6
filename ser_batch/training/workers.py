"""Training on several worker processes: each computes the gradient of its share of every batch, and all use the mean.

The batches are those of a training by one process. TensorFlow's collective operations connect the workers.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ser_batch.errors import UsageError, WorkerError
from ser_batch.runtime.process import native_code_silenced

Strategy = Literal["auto", "single", "multi-worker", "mirrored"]

_LOST = tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError, tf.errors.InternalError


@dataclass(frozen=True)
class Share:
    """The share of every batch that a worker trains on: each ``of``-th example.

    All workers get equally many. If the last batch cannot be divided, some get one more example, of weight 0.

    Attributes:
        number: of the worker, from 0.
        of: number of workers.
    """

    number: int = 0
    of: int = 1

    def n_examples(self, n_examples: int) -> int:
        """How many of so many examples are the worker's, without those of weight 0."""
        return len(range(self.number, n_examples, self.of))

    def padding(self, n_examples: int) -> int:
        """Number of examples of weight 0 that are added to so many."""
        return -n_examples % self.of

    def rows(self, n_examples: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Places and weights of a worker's examples within a batch, each ``(examples,)``; see `weight`."""
        places = np.arange(self.number, n_examples + self.padding(n_examples), self.of)
        weights = np.where(places < n_examples, self.weight(n_examples), 0.0).astype(np.float32)
        return np.minimum(places, n_examples - 1), weights

    def weight(self, n_examples: int) -> float:
        """Weight of an example, so that the mean over workers of their mean loss is the mean loss of the batch."""
        return (n_examples + self.padding(n_examples)) / n_examples


WHOLE = Share()


class Workers:
    """The worker processes of a training.

    Args:
        share: of this worker.
        strategy: with one replica in each worker; None: there is only one worker.

    Attributes:
        share: of this worker.
    """

    def __init__(self, share: Share = WHOLE, strategy: tf.distribute.Strategy | None = None) -> None:
        self.share, self._strategy = share, strategy

    def __str__(self) -> str:
        return f"worker {self.share.number + 1} of {self.share.of}"

    @property
    def are_several(self) -> bool:
        """Whether there are several workers."""
        return self.share.of > 1

    @property
    def is_first(self) -> bool:
        """Whether this worker is the first, which writes the output."""
        return self.share.number == 0

    def mean(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The mean over the workers of each tensor; all workers have to call it.

        Raises:
            tf.errors.OpError: another worker has ended.
        """
        if self._strategy is None or not tensors:
            return list(tensors)

        def of_replica(*own: tf.Tensor) -> Any:
            placed = [tf.identity(tensor) for tensor in own]
            return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, placed)

        return list(self._strategy.run(of_replica, args=tuple(tensors)))

    def from_first(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The arrays of the first worker, with at most 53 bits a value, for all workers; all have to call it.

        Raises:
            WorkerError: another worker has ended.
        """
        if self._strategy is None:
            return list(arrays)
        factor = float(self.share.of if self.is_first else 0)
        with self.loss_as_worker_error():
            sent = self.mean([tf.constant(np.asarray(array, np.float64) * factor) for array in arrays])
        return [one.numpy().astype(array.dtype) for one, array in zip(sent, arrays, strict=True)]

    def check_equal(self, settings: Mapping[str, Any]) -> None:
        """Compare settings of all workers; all have to call it.

        Raises:
            WorkerError: they differ.
        """
        own = {name: float(zlib.crc32(json.dumps(value, sort_keys=True).encode())) for name, value in settings.items()}
        first = self.from_first([np.array([*own.values()])])[0]
        differing = [name for (name, value), other in zip(own.items(), first, strict=True) if value != other]
        n_differing = self.from_all(float(bool(differing)))
        if differing:
            raise WorkerError(
                f"{self}: {', '.join(differing)}: not as in worker 1; start all workers with the same records, "
                "options and precision"
            )
        if n_differing:
            raise WorkerError(f"{self}: others have other records or options; start all workers with the same")

    def from_all(self, value: float) -> float:
        """The mean of a number over the workers; all have to call it."""
        with self.loss_as_worker_error():
            return float(self.mean([tf.constant(value, tf.float64)])[0]) if self.are_several else value

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Context manager: the other workers begin the ``with`` block when the first has finished it."""
        if not self.is_first:
            self.from_all(0.0)
        yield
        if self.is_first:
            self.from_all(0.0)

    @contextmanager
    def loss_as_worker_error(self) -> Iterator[None]:
        """Replace TensorFlow's error for a lost worker by a one-line `WorkerError`.

        Raises:
            WorkerError: another worker has ended.
        """
        try:
            yield
        except _LOST as error:
            if self._strategy is None:
                raise
            is_clear = not isinstance(error, tf.errors.InternalError)  # it has other causes, too
            detail = "" if is_clear else f" (TensorFlow: {' '.join(str(error.message).split())[:200]})"
            raise WorkerError(
                f"{self}: another worker has ended or cannot be reached{detail}; start all workers again: the training "
                "continues after its last epoch"
            ) from error


ALONE = Workers()


def join_workers(strategy: str, on_wait: Callable[[str], Any] = lambda message: None) -> Workers:
    """Connect to the other workers, and wait until all are there.

    Args:
        strategy: ``auto``: several workers if ``TF_CONFIG`` names them; ``single``; ``multi-worker``.
        on_wait: called with a message before this worker waits.

    Raises:
        UsageError: there is no such strategy, or ``TF_CONFIG`` is missing or invalid.
        WorkerError: TensorFlow was used before in this process.
    """
    if strategy not in get_args(Strategy):
        raise UsageError(f"--strategy {strategy}: no such strategy; choose one of {', '.join(get_args(Strategy))}")
    text = os.environ.get("TF_CONFIG", "")
    if strategy == "single" or (strategy == "auto" and not text):
        return ALONE
    if not text:
        raise UsageError("--strategy multi-worker: the environment variable TF_CONFIG is not set; it names the workers")
    share = parse_share(text)
    if share.of == 1:
        return ALONE
    on_wait(f"{Workers(share)}: waiting for the others")
    return Workers(share, _connected(text))


def parse_share(text: str) -> Share:
    """The share of this worker, from TensorFlow's description of a cluster.

    Args:
        text: JSON, ``{"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}``; a ``chief``
            comes before the workers.

    Raises:
        UsageError: it is something else.
    """
    expected = 'expected {"cluster": {"worker": ["HOST:PORT", …]}, "task": {"type": "worker", "index": 0}}'
    try:
        content = json.loads(text)
        cluster, task = content["cluster"], content["task"]
        sizes = {name: len(cluster[name]) for name in ("chief", "worker") if cluster.get(name)}
        kind, index = task["type"], int(task["index"])
        if cluster.keys() - sizes.keys() or not 0 <= index < sizes[kind]:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG: {text[:200]}: is no cluster of workers; {expected}") from error
    return Share(index + (sizes.get("chief", 0) if kind == "worker" else 0), sum(sizes.values()))


@cache
def _connected(text: str) -> tf.distribute.Strategy:
    """The strategy of ``TF_CONFIG``, which a process can create only once.

    It is created in a thread, so that signals are handled while it waits for the other workers.
    """
    try:
        with ThreadPoolExecutor(1) as pool, native_code_silenced():
            return pool.submit(tf.distribute.MultiWorkerMirroredStrategy).result()
    except RuntimeError as error:
        raise WorkerError("TensorFlow was used before; start every worker in a process of its own") from error
