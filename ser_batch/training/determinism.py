"""The same numbers from the same seed, and no trace of it in the process."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import keras
import tensorflow as tf
from tensorflow.python.framework import config

from ser_batch.training.recipes import Precision


@contextmanager
def deterministic(seed: int) -> Iterator[None]:
    """Deterministic operations, and initial weights from a seed, in the body of the ``with`` block.

    Keras draws the seeds of its initialisers from Python's generator; all else that is random has a seed of its own.
    So no other generator is touched: with operations deterministic, TensorFlow refuses one that is not seeded.
    """
    before, was_enabled = random.getstate(), config.is_op_determinism_enabled()
    random.seed(seed)
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        random.setstate(before)
        if not was_enabled:
            config.disable_op_determinism()


@contextmanager
def computing_in(precision: Precision) -> Iterator[None]:
    """The precision of layers that are built in the body of the ``with`` block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def one_thread() -> None:
    """Set TensorFlow of a worker process to one thread, before its first use, as folds are what runs in parallel.

    Sums that are divided among more threads are rounded otherwise; the number of workers must change nothing.
    """
    if tf.config.threading.get_intra_op_parallelism_threads() != 1:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
