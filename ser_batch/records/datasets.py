"""From record folder to batches for training and evaluation, through tf.data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.audio.waveforms import Float32s
from ser_batch.errors import RecordsError
from ser_batch.records.examples import parse_tensors
from ser_batch.records.layout import RecordFolder

if TYPE_CHECKING:
    import tensorflow as tf

_SHARDS_AT_ONCE = 16
_SHUFFLED_BYTES = 512 << 20


@dataclass(frozen=True)
class Selection:
    """Some examples of a record folder.

    Attributes:
        name: what messages call them: a split, or a side of a fold.
        shards: those that hold them, as `RecordFolder.shards` describes them.
        chosen: one bool for every example in those shards, in order; None: all of them.
    """

    name: str
    shards: tuple[dict[str, Any], ...]
    chosen: NDArray[np.bool_] | None = None

    @property
    def n_examples(self) -> int:
        """How many they are."""
        if self.chosen is not None:
            return int(self.chosen.sum())
        return sum(shard["examples"] for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Of the shards."""
        return sum(shard["bytes"] for shard in self.shards)


def split_selection(records: RecordFolder, split: str) -> Selection:
    """The examples of one split.

    Raises:
        RecordsError: it has none.
    """
    shards = tuple(shard for shard in records.shards(split) if shard["examples"])
    if not shards:
        present = ", ".join(sorted({shard["split"] for shard in records.shards()}))
        raise RecordsError(f"{records.path}: no examples in the split {split!r}; it has {present}")
    return Selection(split, shards)


def row_selection(records: RecordFolder, name: str, chosen: NDArray[np.bool_]) -> Selection:
    """The examples at certain rows of the manifest, whatever their split.

    Args:
        records: a finished record folder.
        name: what messages call them.
        chosen: one bool per row of the manifest.
    """
    return Selection(name, tuple(shard for shard in records.shards() if shard["examples"]), chosen)


def manifest_rows(records: RecordFolder, selection: Selection) -> Iterator[dict[str, str]]:
    """The manifest's rows of a selection, in its order."""
    names = {shard["name"] for shard in selection.shards}
    rows = (row for row in records.manifest() if row["shard"] in names)
    if selection.chosen is None:
        yield from rows
    else:
        yield from (row for row, chosen in zip(rows, selection.chosen, strict=True) if chosen)


@dataclass(frozen=True)
class Batch:
    """Consecutive examples, in shard order.

    Attributes:
        log_mels: float32 ``(batch, n_mels, n_frames)``; shorter ones padded with `PADDING_DB`.
        labels: int64 ``(batch,)``, indices into the record folder's labels.
    """

    log_mels: Float32s
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class EpochOptions:
    """How the examples of one epoch are made into batches.

    Attributes:
        batch_size: examples a batch.
        seed, epoch: the order of examples, and all that is random in ``vary``, is a function of these two.
        vary: from a log-mel ``(n_mels, n_frames)`` and a seed, int32 ``(2,)``, to a varied log-mel; None: as it is.
        mix: from a batch ``(log_mels, one-hot labels)`` and a seed to a mixed batch; None: as it is.
        scales: float32 ``(examples, 2, n_mels)``: each example's log-mel is multiplied by the first and
            added to the second; None: as it is.
        label_weights: weight of an example of each label; None: all alike.
    """

    batch_size: int
    seed: int
    epoch: int
    vary: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    scales: Float32s | None = None
    label_weights: Float32s | None = None


class TrainingData:
    """Examples to train on, read once where they fit in memory, and shuffled anew for every epoch.

    Args:
        records: a finished record folder.
        selection: which of its examples.
        in_order: count them in the manifest's order, as ``EpochOptions.scales`` does; else shards are read in
            parallel.
    """

    def __init__(self, records: RecordFolder, selection: Selection, in_order: bool = False) -> None:
        self._shape = records.front_end.shape
        self._longest = records.front_end.n_frames
        self._n_labels = len(records.labels)
        self._n_examples = selection.n_examples
        serialized = _serialized(records, selection, 1 if in_order else _SHARDS_AT_ONCE).enumerate()
        self._serialized = serialized.cache() if selection.size_bytes <= usable_memory() // 4 else serialized

    def epoch(self, options: EpochOptions) -> tf.data.Dataset:
        """The batches of one epoch: ``(log_mels (batch, n_mels, n_frames), one-hot labels, weights)``.

        A training that continues sees the same. Shorter log-mels are padded with `PADDING_DB`.
        """
        import tensorflow as tf

        def to_example(index: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            features = parse_tensors(serialized, self._shape)
            log_mel = features["log_mel"]
            if options.scales is not None:
                scale = tf.gather(options.scales, index)
                log_mel = log_mel * scale[0][:, tf.newaxis] + scale[1][:, tf.newaxis]
            if options.vary is not None:
                log_mel = options.vary(log_mel, seed_of(index))
            return log_mel, tf.one_hot(features["label"], self._n_labels)

        def seed_of(number: tf.Tensor) -> tf.Tensor:
            return tf.stack([order_seed, tf.cast(number, tf.int32)])

        def weighed(number: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            log_mels, labels = batch
            if options.mix is not None:
                log_mels, labels = options.mix(log_mels, labels, seed_of(-1 - number))
            weights = tf.ones(self._n_labels) if options.label_weights is None else options.label_weights
            return log_mels, labels, tf.linalg.matvec(labels, weights)

        order_seed = int(np.random.SeedSequence([options.seed, options.epoch]).generate_state(1)[0] >> 1)
        example_bytes = 4 * self._shape[0] * self._longest
        buffer = min(self._n_examples, max(_SHUFFLED_BYTES // example_bytes, 1))
        return (
            self._serialized.shuffle(buffer, seed=order_seed, reshuffle_each_iteration=False)
            .map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
            .padded_batch(options.batch_size, padding_values=(PADDING_DB, 0.0))
            .enumerate()
            .map(weighed, num_parallel_calls=tf.data.AUTOTUNE)
            .prefetch(tf.data.AUTOTUNE)
        )


def read_batches(records: RecordFolder, selection: Selection, batch_size: int) -> Iterator[Batch]:
    """The examples of a selection in shard order, as the manifest lists them.

    Raises:
        RecordsError: it is empty, or damaged.
    """
    import tensorflow as tf

    def to_pair(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = parse_tensors(serialized, records.front_end.shape)
        return features["log_mel"], features["label"]

    parsed = _serialized(records, selection, shards_at_once=1).map(to_pair, num_parallel_calls=tf.data.AUTOTUNE)
    batches = parsed.padded_batch(batch_size, padding_values=(PADDING_DB, np.int64(0)))
    with damage_named(records):
        for log_mels, labels in batches.prefetch(tf.data.AUTOTUNE):
            yield Batch(log_mels.numpy(), labels.numpy())


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


@dataclass(frozen=True)
class BandSums:
    """What means and deviations are computed from: sums over the frames of each of some examples.

    Attributes:
        frames: float64 ``(examples,)``.
        totals, squares: float64 ``(examples, n_mels)``: of the log-mels and of their squares.
    """

    frames: NDArray[np.float64]
    totals: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def concatenated(cls, parts: Sequence[BandSums]) -> BandSums:
        """Of the examples of all parts, in order."""
        columns = ((part.frames, part.totals, part.squares) for part in parts)
        return cls(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def band_sums(log_mels: Float32s) -> BandSums:
    """Of a batch ``(batch, n_mels, n_frames)``, padding left out."""
    real = log_mels[:, :1] != PADDING_DB
    values = np.where(real, log_mels, 0.0).astype(np.float64)
    return BandSums(real.sum(axis=(1, 2)).astype(np.float64), values.sum(axis=2), np.square(values).sum(axis=2))


def band_statistics(records: RecordFolder, selection: Selection) -> tuple[Float32s, Float32s]:
    """Mean and variance of every mel band over a selection, each float32 ``(n_mels,)``."""
    n_frames = 0.0
    total = squares = np.zeros(records.front_end.n_mels)
    for batch in read_batches(records, selection, batch_size=64):
        sums = band_sums(batch.log_mels)
        n_frames += sums.frames.sum()
        total = total + sums.totals.sum(axis=0)
        squares = squares + sums.squares.sum(axis=0)
    mean = total / n_frames
    variance = np.maximum(squares / n_frames - np.square(mean), 0.0)
    return mean.astype(np.float32), variance.astype(np.float32)


def _serialized(records: RecordFolder, selection: Selection, shards_at_once: int) -> tf.data.Dataset:
    """Serialized Examples in an order that is always the same; with one shard at once, the manifest's."""
    import tensorflow as tf

    paths = [str(records.path / shard["name"]) for shard in selection.shards]
    for path, shard in zip(paths, selection.shards, strict=True):
        if not os.path.exists(path) or os.path.getsize(path) != shard["bytes"]:
            raise RecordsError(f"{path}: is not the shard of {shard['bytes']} bytes that was written; run verify")
    if not selection.n_examples:
        raise RecordsError(f"{records.path}: no examples in {selection.name}")
    # Parts of shards are read one after another, because the choice counts examples in the manifest's order.
    chosen = selection.chosen
    examples = tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset,
        cycle_length=shards_at_once if chosen is None else 1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if chosen is None:
        return examples
    kept = examples.enumerate().filter(lambda number, _: tf.gather(chosen, number))
    return kept.map(lambda _, serialized: serialized)


def usable_memory() -> int:
    """Bytes that this process may use: of the machine, or of its control group."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return machine
