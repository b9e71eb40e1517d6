"""From record folder to batches for training and evaluation, through tf.data."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.logmels import PADDING_DB
from ser_batch.audio.waveforms import Float32s
from ser_batch.errors import RecordsError
from ser_batch.records.examples import Example, parse, parse_tensors, read_records
from ser_batch.records.layout import RecordFolder

if TYPE_CHECKING:
    import tensorflow as tf

_SHARDS_AT_ONCE = 16
_SHUFFLED_BYTES = 512 << 20
_SHUFFLED_FEATURES = 100_000
_EXTRACTED_AT_ONCE = 32


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
class Preparation:
    """What is done to examples before they are batched.

    Attributes:
        vary: from a log-mel ``(n_mels, n_frames)`` and a seed, int32 ``(2,)``, to a varied log-mel; None: as it is.
        extract: from log-mels ``(batch, n_mels, n_frames)`` to what the network learns from, ``(batch, features)``;
            None: the log-mels themselves, varied anew in every epoch.
        copies: with ``extract``: so many varied copies of every example are made once, and used in turn.
        in_order: count examples in the manifest's order, as ``EpochOptions.scales`` does; else shards are read in
            parallel.
    """

    vary: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    extract: Callable[[tf.Tensor], tf.Tensor] | None = None
    copies: int = 1
    in_order: bool = False


@dataclass(frozen=True)
class EpochOptions:
    """How the examples of one epoch are made into batches.

    Attributes:
        batch_size: examples a batch.
        seed, epoch: the order of examples, and all else that is random, is a function of these two.
        mix: from a batch ``(examples, one-hot labels)`` and a seed to a mixed batch; None: as it is.
        scales: float32 ``(examples, 2, features)``, a second input of the network; None: there is one input.
        label_weights: weight of an example of each label; None: all alike.
    """

    batch_size: int
    seed: int
    epoch: int
    mix: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]] | None = None
    scales: Float32s | None = None
    label_weights: Float32s | None = None


class TrainingData:
    """Examples to train on, read once where they fit in memory, and shuffled anew for every epoch.

    Args:
        records: a finished record folder.
        selection: which of its examples.
        preparation: what is done to them.

    Attributes:
        fits: whether they are kept in memory.
    """

    def __init__(self, records: RecordFolder, selection: Selection, preparation: Preparation = Preparation()) -> None:
        self._shape = records.front_end.shape
        self._longest = records.front_end.n_frames
        self._n_labels = len(records.labels)
        self._n_examples = selection.n_examples
        self._preparation = preparation
        serialized = _serialized(records, selection, 1 if preparation.in_order else _SHARDS_AT_ONCE).enumerate()
        self.fits = selection.size_bytes <= usable_memory() // 4
        self._serialized = serialized.cache() if self.fits else serialized
        self._copies: dict[tuple[int, int], tf.data.Dataset | _Arrays] = {}

    def epoch(self, options: EpochOptions) -> tf.data.Dataset:
        """The batches of one epoch: ``(examples, one-hot labels (batch, labels), weights (batch,))``.

        Examples are log-mels ``(batch, n_mels, n_frames)``, padded with `PADDING_DB`, or what was extracted from them;
        with scales, ``(examples, scales)``. A training that continues sees the same.
        """
        import tensorflow as tf

        order = _seed_number(options.seed, options.epoch)
        weights = np.ones(self._n_labels, np.float32) if options.label_weights is None else options.label_weights

        def mixed(number: tf.Tensor, batch: tuple[Any, tf.Tensor, tf.Tensor]) -> tuple[Any, tf.Tensor, tf.Tensor]:
            inputs, labels, _ = batch
            examples, *extra = inputs if isinstance(inputs, tuple) else (inputs,)
            assert options.mix is not None
            examples, labels = options.mix(examples, labels, tf.stack([order, -1 - tf.cast(number, tf.int32)]))
            return (examples, *extra) if extra else examples, labels, tf.linalg.matvec(labels, weights)

        if self._preparation.extract is None:
            buffer = max(_SHUFFLED_BYTES // (4 * self._shape[0] * self._longest), 1)
            examples = self._examples(self._shuffled(self._serialized, buffer, order), order)
            padding = PADDING_DB if options.scales is None else (PADDING_DB, 0.0)
            elements = self._streamed(examples, options.scales, weights)
            batches = elements.padded_batch(options.batch_size, padding_values=(padding, 0.0, 0.0))
        else:
            copy = self._copy(options.seed, options.epoch % self._preparation.copies)
            if isinstance(copy, _Arrays):
                places = self._shuffled(tf.data.Dataset.range(self._n_examples), _SHUFFLED_FEATURES, order)
                elements = copy.elements(places, options.scales, weights)
            else:
                elements = self._streamed(self._shuffled(copy, _SHUFFLED_FEATURES, order), options.scales, weights)
            batches = elements.batch(options.batch_size)
        if options.mix is not None:
            batches = batches.enumerate().map(mixed, num_parallel_calls=tf.data.AUTOTUNE)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _shuffled(self, dataset: tf.data.Dataset, buffer: int, order: int) -> tf.data.Dataset:
        return dataset.shuffle(min(self._n_examples, buffer), order, reshuffle_each_iteration=False)

    def _streamed(self, examples: tf.data.Dataset, scales: Float32s | None, label_weights: Float32s) -> tf.data.Dataset:
        """From ``(index, example, one-hot label)`` to ``(example or (example, scale), one-hot label, weight)``."""
        import tensorflow as tf

        def weighed(index: tf.Tensor, example: tf.Tensor, label: tf.Tensor) -> tuple[Any, tf.Tensor, tf.Tensor]:
            inputs = example if scales is None else (example, tf.gather(scales, index))
            return inputs, label, tf.tensordot(label, label_weights, 1)

        return examples.map(weighed, num_parallel_calls=tf.data.AUTOTUNE)

    def _examples(self, serialized: tf.data.Dataset, order: int) -> tf.data.Dataset:
        """Elements ``(index, log-mel, one-hot label)``."""
        import tensorflow as tf

        vary = self._preparation.vary

        def parsed(index: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            features = parse_tensors(serialized, self._shape)
            log_mel = features["log_mel"]
            if vary is not None:
                log_mel = vary(log_mel, tf.stack([order, tf.cast(index, tf.int32)]))
            return index, log_mel, tf.one_hot(features["label"], self._n_labels)

        return serialized.map(parsed, num_parallel_calls=tf.data.AUTOTUNE)

    def _copy(self, seed: int, number: int) -> tf.data.Dataset | _Arrays:
        """Elements ``(index, extracted, one-hot label)`` of one varied copy of the examples; kept if they fit."""
        import tensorflow as tf

        extract = self._preparation.extract
        assert extract is not None
        if (seed, number) not in self._copies:
            batches = self._examples(self._serialized, _seed_number(seed, number)).padded_batch(
                _EXTRACTED_AT_ONCE, padding_values=(np.int64(0), PADDING_DB, 0.0)
            )
            batches = batches.map(
                lambda index, log_mels, labels: (index, extract(log_mels), labels), num_parallel_calls=tf.data.AUTOTUNE
            )
            if self.fits:
                columns = zip(*batches.as_numpy_iterator(), strict=True)
                self._copies[seed, number] = _Arrays(*(np.concatenate(column) for column in columns))
            else:
                self._copies[seed, number] = batches.unbatch()
        return self._copies[seed, number]


@dataclass(frozen=True)
class _Arrays:
    """One copy of the examples in memory, from which an epoch is made without a graph to trace and plan anew.

    Attributes:
        index: int64 ``(examples,)``.
        examples: float32 ``(examples, features)``.
        labels: float32 ``(examples, labels)``, one-hot.
    """

    index: NDArray[np.int64]
    examples: Float32s
    labels: Float32s

    def elements(self, places: tf.data.Dataset, scales: Float32s | None, label_weights: Float32s) -> tf.data.Dataset:
        """The elements at these places: ``(example or (example, scale), one-hot label, weight)``."""
        import tensorflow as tf

        order = places.batch(len(self.index)).get_single_element().numpy()
        examples, labels = self.examples[order], self.labels[order]
        inputs = examples if scales is None else (examples, scales[self.index[order]])
        return tf.data.Dataset.from_tensor_slices((inputs, labels, labels @ label_weights))


def _seed_number(*numbers: int) -> int:
    """One 31-bit seed from several."""
    return int(np.random.SeedSequence(list(numbers)).generate_state(1)[0] >> 1)


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


def read_examples(records: RecordFolder, selection: Selection) -> Iterator[Example]:
    """The examples of a selection one by one in shard order, as the manifest lists them; without TensorFlow.

    Raises:
        RecordsError: it is empty, or damaged.
    """
    chosen = itertools.repeat(True) if selection.chosen is None else iter(selection.chosen.tolist())
    for path in _shard_paths(records, selection):
        try:
            with open(path, "rb") as file:
                for serialized in read_records(file):
                    if next(chosen):
                        yield parse(serialized, records.front_end.shape)
        except RecordsError as error:
            raise RecordsError(
                f"{records.path}: is damaged ({path.name} {error}); ser-batch verify says where"
            ) from error


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
        detail = re.sub(r"\{\{.*?\}\}|\[Op:.*", "", " ".join(str(error.message).split())).strip()[:200]
        raise RecordsError(f"{records.path}: is damaged ({detail}); ser-batch verify says where") from error


def _serialized(records: RecordFolder, selection: Selection, shards_at_once: int) -> tf.data.Dataset:
    """Serialized Examples in an order that is always the same; with one shard at once, the manifest's."""
    import tensorflow as tf

    paths = [str(path) for path in _shard_paths(records, selection)]
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


def _shard_paths(records: RecordFolder, selection: Selection) -> list[Path]:
    paths = records.shard_paths(selection.shards)
    if not selection.n_examples:
        raise RecordsError(f"{records.path}: no examples in {selection.name}")
    return paths


def usable_memory() -> int:
    """Bytes that this process may use: of the machine, or of its control group."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        return min(machine, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        return machine
