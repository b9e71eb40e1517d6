"""Reproducible training: global settings of Python, TensorFlow and Keras, restored afterwards."""

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
    """Context manager: deterministic operations, and initial weights from a seed.

    Keras draws the seeds of its initialisers from Python's generator. Every other random operation has its own seed,
    so no other generator is changed; in deterministic mode TensorFlow raises an error for an unseeded operation.
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
    """Context manager: the precision of layers that are built in the ``with`` block."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def one_thread() -> None:
    """Set TensorFlow of a worker process to one thread, before its first use; folds run in parallel instead.

    Sums over more threads are rounded differently, and results must not depend on the number of workers.
    """
    if tf.config.threading.get_intra_op_parallelism_threads() != 1:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
