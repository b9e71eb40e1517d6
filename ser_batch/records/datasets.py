"""From record folder to batches for training and evaluation, through tf.data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ser_batch.audio.waveforms import Float32s
from ser_batch.errors import RecordsError
from ser_batch.records.examples import parse_tensors
from ser_batch.records.layout import RecordFolder

if TYPE_CHECKING:
    import tensorflow as tf

_SHARDS_AT_ONCE = 16
_SHUFFLED_BYTES = 512 << 20


@dataclass(frozen=True)
class Batch:
    """Consecutive examples of a split, in shard order.

    Attributes:
        log_mels: float32 ``(batch, n_mels, n_frames)``.
        labels: int64 ``(batch,)``, indices into the record folder's labels.
    """

    log_mels: Float32s
    labels: np.ndarray[tuple[int], np.dtype[np.int64]]


class TrainingData:
    """The examples of one split, read once where they fit in memory, and shuffled anew for every epoch.

    Args:
        records: a finished record folder.
        split: which of its splits.

    Raises:
        RecordsError: the split is empty.
    """

    def __init__(self, records: RecordFolder, split: str) -> None:
        self._records = records
        self._n_examples = records.n_examples(split)
        serialized = _serialized(records, split, _SHARDS_AT_ONCE)
        fits = sum(shard["bytes"] for shard in records.shards(split)) <= _usable_memory() // 4
        self._serialized = serialized.cache() if fits else serialized

    def epoch(self, batch_size: int, seed: int, epoch: int) -> tf.data.Dataset:
        """The batches of one epoch: ``(log_mel (batch, n_mels, n_frames), one-hot label (batch, labels))``.

        Their order is a function of ``seed`` and ``epoch``, so that a training that continues sees the same.
        """
        import tensorflow as tf

        shape, n_labels = self._records.front_end.shape, len(self._records.labels)
        buffer = min(self._n_examples, max(_SHUFFLED_BYTES // (4 * shape[0] * shape[1]), 1))
        order_seed = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])

        def to_pair(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            features = parse_tensors(serialized, shape)
            return features["log_mel"], tf.one_hot(features["label"], n_labels)

        shuffled = self._serialized.shuffle(buffer, seed=order_seed, reshuffle_each_iteration=False)
        return shuffled.batch(batch_size).map(to_pair, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def read_batches(records: RecordFolder, split: str, batch_size: int) -> Iterator[Batch]:
    """The examples of a split in shard order, as the manifest lists them.

    Raises:
        RecordsError: the split is empty, or damaged.
    """
    import tensorflow as tf

    shape = records.front_end.shape
    parsed = (
        _serialized(records, split, shards_at_once=1)
        .batch(batch_size)
        .map(lambda serialized: parse_tensors(serialized, shape))
    )
    with damage_named(records):
        for features in parsed.prefetch(tf.data.AUTOTUNE):
            yield Batch(features["log_mel"].numpy(), features["label"].numpy())


@contextmanager
def damage_named(records: RecordFolder) -> Iterator[None]:
    """Turn what TensorFlow raises for a damaged shard into one line.

    Raises:
        RecordsError: a record cannot be read or parsed.
    """
    import tensorflow as tf

    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        detail = " ".join(str(error.message).split())[:200]
        raise RecordsError(f"{records.path}: is damaged ({detail}); ser-batch verify says where") from error


def band_statistics(records: RecordFolder, split: str) -> tuple[Float32s, Float32s]:
    """Mean and variance of every mel band over a split, each float32 ``(n_mels,)``."""
    n_values = 0
    total = squares = np.zeros(records.front_end.n_mels)
    for batch in read_batches(records, split, batch_size=64):
        values = batch.log_mels.astype(np.float64)
        n_values += values.shape[0] * values.shape[2]
        total = total + values.sum(axis=(0, 2))
        squares = squares + np.square(values).sum(axis=(0, 2))
    mean = total / n_values
    variance = np.maximum(squares / n_values - np.square(mean), 0.0)
    return mean.astype(np.float32), variance.astype(np.float32)


def _serialized(records: RecordFolder, split: str, shards_at_once: int) -> tf.data.Dataset:
    """Serialized Examples in an order that is always the same; with one shard at once, the manifest's."""
    import tensorflow as tf

    shards = [shard for shard in records.shards(split) if shard["examples"]]
    paths = [str(records.path / shard["name"]) for shard in shards]
    for path, shard in zip(paths, shards, strict=True):
        if not os.path.exists(path) or os.path.getsize(path) != shard["bytes"]:
            raise RecordsError(f"{path}: is not the shard of {shard['bytes']} bytes that was written; run verify")
    if not paths:
        present = ", ".join(sorted({shard["split"] for shard in records.shards()}))
        raise RecordsError(f"{records.path}: no examples in the split {split!r}; it has {present}")
    return tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset,
        cycle_length=shards_at_once,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )


def _usable_memory() -> int:
    """Bytes that this process may use: of the machine, or of its control group."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return machine
