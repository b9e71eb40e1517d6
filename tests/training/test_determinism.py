"""A training leaves the process that it runs in as it was."""

import random
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import config

from ser_batch.records.folder import RecordFolder
from ser_batch.training.determinism import deterministic
from ser_batch.training.train import train
from tests.recipes import FULL


def global_state() -> dict[str, object]:
    return {
        "Python": random.getstate(),
        "NumPy": str(np.random.get_state()),
        "TensorFlow": context.global_seed(),
        "Keras": keras.config.dtype_policy().name,
        "determinism": config.is_op_determinism_enabled(),
    }


def test_a_training_leaves_no_global_state_changed(kept_records: RecordFolder, tmp_path: Path) -> None:
    before = global_state()
    train(kept_records, tmp_path / "out", FULL.replace(epochs=1), seed=3, precision="mixed_bfloat16")
    assert global_state() == before
    assert not config.is_op_determinism_enabled()


def test_an_error_leaves_no_global_state_changed() -> None:
    before = global_state()
    with pytest.raises(KeyboardInterrupt), deterministic(3):
        raise KeyboardInterrupt
    assert global_state() == before


def test_what_was_deterministic_stays_so() -> None:
    tf.config.experimental.enable_op_determinism()
    try:
        with deterministic(0):
            pass
        assert config.is_op_determinism_enabled()
    finally:
        config.disable_op_determinism()


def test_initial_weights_are_those_of_the_seed() -> None:
    def weights(seed: int) -> np.ndarray:
        with deterministic(seed):
            layer = keras.layers.Dense(4)
            layer.build((None, 3))
        return np.asarray(layer.kernel)

    np.testing.assert_array_equal(weights(1), weights(1))
    assert (weights(1) != weights(2)).any()


def test_a_map_with_state_runs_in_parallel_again() -> None:
    """Where operations are deterministic, tf.data runs a stateful map one element at a time."""

    def secs() -> float:
        dataset = tf.data.Dataset.range(8).map(slow, num_parallel_calls=8, deterministic=False)
        began = time.perf_counter()
        assert sorted(dataset.as_numpy_iterator()) == list(range(8))
        return time.perf_counter() - began

    def slow(number: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(lambda one: (time.sleep(0.3), one)[1], [number], tf.int64)

    with deterministic(0):
        assert secs() > 2.3
    assert secs() < 1.8
