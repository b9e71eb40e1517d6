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

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")
_Columns = tuple[tf.Tensor, tf.Tensor, tf.Tensor]

_PARALLEL_SHARDS = 16
_SHUFFLE_BUFFER_BYTES = 512 << 20
_SHUFFLE_BUFFER_ROWS = 100_000
_EXTRACTION_BATCH_SIZE = 32
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
class Preparation:
    """Processing of examples before they are batched.

    Attributes:
        augment: from a log-mel ``(n_mels, n_frames)`` and a seed, int32 ``(2,)``, to another log-mel; None: unchanged.
        extract: from log-mels ``(batch, n_mels, n_frames)`` to the network's input, ``(batch, features)``;
            None: the log-mels themselves, with new augmentation in every epoch.
        copies: with ``extract``: number of augmented copies of every example, made once and used in turn.
        in_order: number examples in the manifest's order, as ``EpochOptions.scales`` requires; otherwise shards are
            read in parallel.
    """

    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    extract: Callable[[tf.Tensor], tf.Tensor] | None = None
    copies: int = 1
    in_order: bool = False


@dataclass(frozen=True)
class EpochOptions:
    """Options of the batches of an epoch.

    Attributes:
        batch_size: examples per batch.
        seed: every random choice is a function of this and of the epoch's number.
        mix: from a batch ``(examples, one-hot labels)`` and a seed to a mixed batch; None: unchanged.
        scales: from an epoch's number to float32 ``(examples, 2, features)``, a second input of the network, with
            the same shape in all epochs; None: the network has one input.
        label_weights: weight of an example of each label; None: all equal.
    """

    batch_size: int
    seed: int
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    scales: Callable[[int], Float32s] | None = None
    label_weights: Float32s | None = None


class TrainingData:
    """Training examples, read once if they fit in memory, and shuffled again for every epoch.

    Args:
        records: a finished record folder.
        selection: the examples to use.
        preparation: processing before batching.

    Attributes:
        fits: whether they are kept in memory.
    """

    def __init__(self, records: RecordFolder, selection: Selection, preparation: Preparation = Preparation()) -> None:
        self._shape = records.front_end.shape
        self._longest = records.front_end.n_frames
        self._n_labels = len(records.labels)
        self._n_examples = selection.n_examples
        self._preparation = preparation
        serialized = _serialized(records, selection, 1 if preparation.in_order else _PARALLEL_SHARDS).enumerate()
        self.fits = selection.size_bytes <= usable_memory() // 4
        self._serialized = serialized.cache() if self.fits else serialized

    def epochs(self, options: EpochOptions, numbers: Sequence[int]) -> tf.data.Dataset:
        """The batches of the given epochs: ``(examples, one-hot labels (batch, labels), weights (batch,))``.

        Examples are log-mels ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`, or the features extracted from
        them; with scales, ``(examples, scales)``. One dataset holds all epochs in order, each with
        `n_batches(n_examples, batch_size)` batches, so that the next epoch is prepared while the network still trains
        on the current one. An epoch does not depend on earlier ones: a resumed training gets the same batches.
        """
        weights = np.ones(self._n_labels, np.float32) if options.label_weights is None else options.label_weights
        used, of_epoch = np.unique([number % self._preparation.copies for number in numbers], return_inverse=True)
        copies = [_seed_number(options.seed, copy) for copy in used.tolist()]
        orders = np.array([_seed_number(options.seed, number) for number in numbers], np.int64)
        steps = n_batches(self._n_examples, options.batch_size)
        shuffled, content = self._shuffled_batches(options.batch_size, options.seed, copies)

        @without_autograph
        def batches(number: tf.Tensor, order: tf.Tensor, copy: tf.Tensor) -> tf.data.Dataset:
            epoch = shuffled(order, copy)
            if options.scales is None:
                return epoch
            scales = _call_in_graph(options.scales, number, numbers[0])
            return tf.data.Dataset.zip(epoch, tf.data.Dataset.from_tensors(scales).repeat())

        @without_autograph
        def finished(number: tf.Tensor, batch: Any) -> Any:
            batch, *scales = (batch,) if options.scales is None else batch
            index, examples, labels = content(batch)
            if options.mix is not None:
                seed = tf.stack([tf.gather(orders, number // steps), -1 - number % steps])
                examples, labels = options.mix(examples, labels, tf.cast(seed, tf.int32))
            inputs = (examples, tf.gather(*scales, index)) if scales else examples
            return inputs, labels, tf.linalg.matvec(labels, weights)

        epochs = tf.data.Dataset.from_tensor_slices((np.array(numbers, np.int64), orders, of_epoch.astype(np.int64)))
        # Every epoch creates its own datasets, which takes time: steps common to all epochs are applied here, once.
        numbered = epochs.flat_map(batches).enumerate()
        return numbered.map(finished, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def _shuffled_batches(
        self, size: int, seed: int, copies: Sequence[int]
    ) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset], Callable[[Any], _Columns]]:
        """An epoch's shuffled batches, and the function from a batch to ``(indices, examples, one-hot labels)``.

        The batches are a function of the epoch's shuffle seed and of the index of its copy in ``copies``.

        Args:
            size: examples per batch.
            seed: of the training.
            copies: augmentation seeds of the copies that are used.
        """
        if self._preparation.extract is None:
            buffer = max(_SHUFFLE_BUFFER_BYTES // (4 * self._shape[0] * self._longest), 1)

            def augmented(order: tf.Tensor, _: tf.Tensor) -> tf.data.Dataset:
                examples = self._augmented(self._shuffle(self._serialized, buffer, seed, order), order)
                return examples.padded_batch(size, padding_values=_PADDING)

            return augmented, lambda batch: batch
        of_copies = np.array(copies, np.int64)
        batches = tf.data.Dataset.from_tensor_slices(of_copies).flat_map(without_autograph(self._extracted))
        width = batches.element_spec[1].shape[1]
        if not self.fits or 4 * width * len(copies) * self._n_examples > usable_memory() // 4:

            def extracted(order: tf.Tensor, copy: tf.Tensor) -> tf.data.Dataset:
                examples = self._extracted(tf.gather(of_copies, copy)).unbatch()
                return self._shuffle(examples, _SHUFFLE_BUFFER_ROWS, seed, order).batch(size)

            return extracted, lambda batch: batch
        # All copies are in memory: a batch is a selection of rows.
        columns = [tf.concat(column, 0) for column in zip(*batches, strict=True)]

        def rows(order: tf.Tensor, copy: tf.Tensor) -> tf.data.Dataset:
            of_copy = tf.data.Dataset.range(copy * self._n_examples, (copy + 1) * self._n_examples)
            return self._shuffle(of_copy, _SHUFFLE_BUFFER_ROWS, seed, order).batch(size)

        return rows, lambda rows: tuple(tf.gather(column, rows) for column in columns)

    def _shuffle(self, dataset: tf.data.Dataset, buffer: int, seed: int, order: tf.Tensor) -> tf.data.Dataset:
        """As `tf.data.Dataset.shuffle`, which does not accept a tensor as the second seed."""
        specs = tf.nest.flatten(dataset.element_spec)
        shuffled = tf.raw_ops.ShuffleDataset(
            input_dataset=tf.data.experimental.to_variant(dataset),
            buffer_size=min(self._n_examples, buffer),
            seed=seed,
            seed2=order,
            output_types=[spec.dtype for spec in specs],
            output_shapes=[spec.shape for spec in specs],
            reshuffle_each_iteration=False,
        )
        return tf.data.experimental.from_variant(shuffled, dataset.element_spec)

    def _augmented(self, serialized: tf.data.Dataset, order: tf.Tensor) -> tf.data.Dataset:
        """Elements ``(index, log-mel, one-hot label)``."""
        augment = self._preparation.augment

        @without_autograph
        def parsed(index: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            features = parse_tensors(serialized, self._shape)
            log_mel = features["log_mel"]
            if augment is not None:
                log_mel = augment(log_mel, tf.stack([tf.cast(order, tf.int32), tf.cast(index, tf.int32)]))
            return index, log_mel, tf.one_hot(features["label"], self._n_labels)

        return serialized.map(parsed, num_parallel_calls=tf.data.AUTOTUNE)

    def _extracted(self, order: tf.Tensor) -> tf.data.Dataset:
        """Batches ``(indices, extracted, one-hot labels)`` of one augmented copy of the examples."""
        extract = self._preparation.extract
        assert extract is not None
        batches = self._augmented(self._serialized, order).padded_batch(_EXTRACTION_BATCH_SIZE, padding_values=_PADDING)
        extracted = without_autograph(lambda index, log_mels, labels: (index, extract(log_mels), labels))
        return batches.map(extracted, num_parallel_calls=tf.data.AUTOTUNE)


def n_batches(n_examples: int, batch_size: int) -> int:
    """Number of batches of an epoch; the last may be smaller."""
    return -(-n_examples // batch_size)


def _call_in_graph(function: Callable[[int], Float32s], number: tf.Tensor, example: int) -> tf.Tensor:
    """The function's result for a number, as a tensor with the shape of its result for ``example``."""
    result = tf.numpy_function(lambda one: function(int(one)), [number], tf.float32)
    return tf.ensure_shape(result, function(example).shape)


def _seed_number(*numbers: int) -> int:
    """One 31-bit seed from several."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0] >> 1)


def read_batches(records: RecordFolder, selection: Selection, batch_size: int) -> Iterator[Batch]:
    """The examples of a selection in shard order, which is the manifest's order.

    Raises:
        RecordsError: the selection is empty, or a shard is damaged.
    """

    @without_autograph
    def to_pair(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = parse_tensors(serialized, records.front_end.shape)
        return features["log_mel"], features["label"]

    parsed = _serialized(records, selection, shards_at_once=1).map(to_pair, num_parallel_calls=tf.data.AUTOTUNE)
    batches = parsed.padded_batch(batch_size, padding_values=(PADDING_DB, np.int64(0)))
    with damage_as_records_error(records):
        for log_mels, labels in batches.prefetch(tf.data.AUTOTUNE):
            yield Batch(log_mels.numpy(), labels.numpy())


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


def _serialized(records: RecordFolder, selection: Selection, shards_at_once: int) -> tf.data.Dataset:
    """Serialized Examples in a fixed order; with ``shards_at_once=1``, the manifest's order."""
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
