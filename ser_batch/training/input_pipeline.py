"""From record folder to batches for training and evaluation, through tf.data."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.errors import RecordsError
from ser_batch.records.examples import parse_tensors
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, _shard_paths
from ser_batch.runtime.resources import usable_memory
from ser_batch.training.workers import WHOLE, Share

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Columns = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
Augmentation = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]

_PARALLEL_SHARDS = 16
_SHUFFLE_BUFFER_BYTES = 512 << 20
_PADDING = (np.int64(0), PADDING_DB, 0.0)  # of an element (index, log-mel, one-hot label)


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
    """Options of the batches of an epoch.

    Attributes:
        batch_size: examples per batch, of all workers.
        seed: every random choice is a function of this and of the epoch's number.
        mix: from a batch ``(examples, one-hot labels)`` and a seed to a mixed batch; None: unchanged.
        label_weights: weight of an example of each label; None: all equal.
        share: of the worker; batches have its examples only.
    """

    batch_size: int
    seed: int
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    label_weights: Float32s | None = None
    share: Share = WHOLE


class TrainingData:
    """Log-mels for training, read once if they fit in memory, and shuffled and augmented again for every epoch.

    Args:
        records: a finished record folder.
        selection: the examples to use.
        augmentation: from a log-mel ``(n_mels, n_frames)`` and a seed, int32 ``(2,)``, to another log-mel; None:
            unchanged.

    Attributes:
        fits: whether they are kept in memory.
    """

    def __init__(self, records: RecordFolder, selection: Selection, augmentation: Augmentation | None = None) -> None:
        self._records, self._augmentation = records, augmentation
        self._n_examples = selection.n_examples
        serialized = serialized_examples(records, selection, _PARALLEL_SHARDS).enumerate()
        self.fits = selection.size_bytes <= usable_memory() // 4
        self._serialized = serialized.cache() if self.fits else serialized

    def epochs(self, options: EpochOptions, numbers: Sequence[int]) -> tf.data.Dataset:
        """The batches of the given epochs: ``(examples, one-hot labels (batch, labels), weights (batch,))``.

        Examples are log-mels ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`. One dataset holds all epochs in
        order, each with `n_batches(n_examples, batch_size)` batches, so that the next epoch is prepared while the
        network still trains on the current one. An epoch does not depend on earlier ones.
        """
        n_labels = len(self._records.labels)
        weights = np.ones(n_labels, np.float32) if options.label_weights is None else options.label_weights
        orders = np.array([seed_number(options.seed, number) for number in numbers], np.int64)
        steps, share = n_batches(self._n_examples, options.batch_size), options.share
        last_weight = share.weight(self._n_examples - (steps - 1) * options.batch_size)

        @without_autograph
        def batches(order: tf.Tensor) -> tf.data.Dataset:
            shuffled = self._of_worker(self._shuffle(options.seed, order), share)
            examples = parsed_examples(shuffled, self._records, self._augmentation, order)
            return examples.padded_batch(options.batch_size // share.of, padding_values=_PADDING)

        @without_autograph
        def finished(number: tf.Tensor, batch: _Columns) -> Any:
            indices, examples, labels = batch
            if options.mix is not None:
                seed = tf.stack([tf.gather(orders, number // steps), -1 - number % steps])
                examples, labels = options.mix(examples, labels, tf.cast(seed, tf.int32))
            example_weights = tf.linalg.matvec(labels, weights)
            if share.of > 1:
                example_weights *= tf.where(number % steps == steps - 1, last_weight, 1.0)
                example_weights *= tf.cast(indices >= 0, tf.float32)
            return examples, labels, example_weights

        # Every epoch creates its own datasets, which takes time: steps common to all epochs are applied here, once.
        numbered = tf.data.Dataset.from_tensor_slices(orders).flat_map(batches).enumerate()
        return numbered.map(finished, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _of_worker(self, numbered: tf.data.Dataset, share: Share) -> tf.data.Dataset:
        """A worker's share of elements ``(index, serialized Example)``; the index of an example of weight 0 is -1."""
        if share.of == 1:
            return numbered
        padding = self._serialized.take(share.padding(self._n_examples))
        padding = padding.map(without_autograph(lambda index, serialized: (tf.constant(-1, tf.int64), serialized)))
        return numbered.concatenate(padding).shard(share.of, share.number)

    def _shuffle(self, seed: int, order: tf.Tensor) -> tf.data.Dataset:
        """As `tf.data.Dataset.shuffle`, which does not accept a tensor as the second seed."""
        front_end = self._records.front_end
        buffer = max(_SHUFFLE_BUFFER_BYTES // (4 * front_end.n_mels * front_end.n_frames), 1)
        specs = tf.nest.flatten(self._serialized.element_spec)
        shuffled = tf.raw_ops.ShuffleDataset(
            input_dataset=tf.data.experimental.to_variant(self._serialized),
            buffer_size=min(self._n_examples, buffer),
            seed=seed,
            seed2=order,
            output_types=[spec.dtype for spec in specs],
            output_shapes=[spec.shape for spec in specs],
            reshuffle_each_iteration=False,
        )
        return tf.data.experimental.from_variant(shuffled, self._serialized.element_spec)


def parsed_examples(
    numbered: tf.data.Dataset, records: RecordFolder, augmentation: Augmentation | None, order: tf.Tensor | int
) -> tf.data.Dataset:
    """Elements ``(index, log-mel, one-hot label)`` from elements ``(index, serialized Example)``.

    Args:
        numbered: indices and serialized Examples.
        records: that they are from.
        augmentation: see `TrainingData`; its seed is of ``order`` and of the index.
        order: seed of the epoch or copy.
    """

    @without_autograph
    def parsed(index: tf.Tensor, serialized: tf.Tensor) -> _Columns:
        features = parse_tensors(serialized, records.front_end.shape)
        log_mel = features["log_mel"]
        if augmentation is not None:
            log_mel = augmentation(log_mel, tf.stack([tf.cast(order, tf.int32), tf.cast(index, tf.int32)]))
        return index, log_mel, tf.one_hot(features["label"], len(records.labels))

    return numbered.map(parsed, num_parallel_calls=tf.data.AUTOTUNE)


def n_batches(n_examples: int, batch_size: int) -> int:
    """Number of batches of an epoch; the last may be smaller."""
    return -(-n_examples // batch_size)


def seed_number(*numbers: int) -> int:
    """One 31-bit seed from several."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0] >> 1)


def read_batches(records: RecordFolder, selection: Selection, batch_size: int) -> Iterator[Batch]:
    """The examples of a selection in shard order, which is the manifest's order.

    Raises:
        RecordsError: the selection is empty, or a shard is damaged.
    """
    batches = log_mels_and_labels(records, selection).padded_batch(batch_size, padding_values=(PADDING_DB, np.int64(0)))
    with damage_as_records_error(records):
        for log_mels, labels in batches.prefetch(tf.data.AUTOTUNE):
            yield Batch(log_mels.numpy(), labels.numpy())


def log_mels_and_labels(records: RecordFolder, selection: Selection, url: str | None = None) -> tf.data.Dataset:
    """Elements ``(log_mel, label)`` in the manifest's order: float32 ``(n_mels, n_frames)``, and int64.

    Args:
        records: a finished record folder.
        selection: the examples.
        url: where TensorFlow reads the shards; None: in the record folder.
    """

    @without_autograph
    def to_pair(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = parse_tensors(serialized, records.front_end.shape)
        return features["log_mel"], features["label"]

    return serialized_examples(records, selection, 1, url).map(to_pair, num_parallel_calls=tf.data.AUTOTUNE)


@contextmanager
def damage_as_records_error(records: RecordFolder) -> Iterator[None]:
    """Replace TensorFlow's errors for a damaged shard by a one-line `RecordsError`.

    Raises:
        RecordsError: a record cannot be read or parsed.
    """
    try:
        yield
    except (tf.errors.DataLossError, tf.errors.InvalidArgumentError, tf.errors.NotFoundError) as error:
        detail = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", " ".join(str(error.message).split())).strip()[:200]
        raise RecordsError(
            f"{records.path}: is damaged ({detail}); run ser-batch verify to list all problems"
        ) from error


def serialized_examples(
    records: RecordFolder, selection: Selection, shards_at_once: int, url: str | None = None
) -> tf.data.Dataset:
    """Serialized Examples in a fixed order; with ``shards_at_once=1``, the manifest's order."""
    paths = [f"{url}/{shard.name}" for shard in selection.shards]
    if url is None:
        paths = [str(path) for path in _shard_paths(records, selection)]
    # Selected parts of shards are read one after another: ``chosen`` is in the manifest's order.
    chosen = selection.chosen
    examples = tf.data.Dataset.from_tensor_slices(paths).interleave(
        tf.data.TFRecordDataset,
        cycle_length=shards_at_once if chosen is None else 1,
        num_parallel_calls=tf.data.AUTOTUNE,
        deterministic=True,
    )
    if chosen is None:
        return examples
    kept = examples.enumerate().filter(without_autograph(lambda number, _: tf.gather(chosen, number)))
    return kept.map(without_autograph(lambda _, serialized: serialized))


def without_autograph(function: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Exclude a function, and the functions it calls, from TensorFlow's AutoGraph.

    AutoGraph is not needed here, and it leaves temporary files behind when a process is killed.
    """
    kept: Callable[_Args, _Result] = tf.autograph.experimental.do_not_convert(function)
    return kept
