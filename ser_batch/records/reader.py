"""Selections of a record folder's examples, read without TensorFlow."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.corpus.splits import stable_keys
from ser_batch.errors import RecordsError
from ser_batch.formatting import pluralize
from ser_batch.records.examples import Example, parse
from ser_batch.records.folder import RecordFolder, Shard
from ser_batch.records.tfrecords import read_records


@dataclass(frozen=True)
class TrainValidation:
    """Training and validation examples of a training.

    Attributes:
        train: training examples.
        validation: examples for metrics after every epoch and for calibration; not used to select a model.
        description: JSON that distinguishes this selection from others of the same records.
        n_copies: number of examples of the split ``train`` that are excluded, as another split has the same audio.
    """

    train: Selection
    validation: Selection | None
    description: Any
    n_copies: int = 0


def split_train_validation(records: RecordFolder) -> TrainValidation:
    """The splits ``train`` and ``validation``; training examples whose audio is also in another split are excluded.

    Raises:
        RecordsError: there is no example to train on.
    """
    has_validation = records.n_examples("validation") > 0
    validation = split_selection(records, "validation") if has_validation else None
    train = split_selection(records, "train")
    copied = copies_of_other_splits(records, "train")
    if copied is None:
        return TrainValidation(train, validation, "splits")
    chosen = Selection("train", train.shards, ~copied)
    if not chosen.n_examples:
        raise RecordsError(
            f"{records.path}: every training example is also in another split; build it with other splits"
        )
    return TrainValidation(chosen, validation, "splits", int(copied.sum()))


@dataclass(frozen=True)
class Selection:
    """A subset of the examples of a record folder.

    Attributes:
        name: for messages: a split, or a side of a fold.
        shards: the shards that hold the examples.
        chosen: one bool for every example in those shards, in order; None: all of them.
    """

    name: str
    shards: tuple[Shard, ...]
    chosen: NDArray[np.bool_] | None = None

    @property
    def n_examples(self) -> int:
        """Number of examples."""
        if self.chosen is not None:
            return int(self.chosen.sum())
        return sum(shard.examples for shard in self.shards)

    @property
    def size_bytes(self) -> int:
        """Size of the shards in bytes."""
        return sum(shard.bytes for shard in self.shards)


def split_selection(records: RecordFolder, split: str) -> Selection:
    """The examples of one split.

    Raises:
        RecordsError: the split has no examples.
    """
    shards = tuple(shard for shard in records.shards(split) if shard.examples)
    if not shards:
        present = ", ".join(sorted({shard.split for shard in records.shards()}))
        raise RecordsError(f"{records.path}: no examples in the split {split!r}; it has {present}")
    return Selection(split, shards)


def copies_of_other_splits(records: RecordFolder, split: str) -> NDArray[np.bool_] | None:
    """Find examples of a split with the same part of the same audio as an example of another split.

    There may be such examples if SOURCE gave the splits.

    Returns:
        One bool for every example of the split, in shard order; None if there are none.
    """
    if records.n_examples() == records.n_examples(split):
        return None
    keys: dict[bool, list[NDArray[np.uint64]]] = {True: [], False: []}
    for shard in records.shards():
        for rows in records.manifest("sha256", "start", "end", shards=[shard]):
            columns = (rows[name].to_pylist() for name in rows.column_names)
            audio = (f"{sha256}\0{start}\0{end}" for sha256, start, end in zip(*columns, strict=True))
            keys[shard.split == split].append(stable_keys(0, audio))
    copied = np.isin(np.concatenate(keys[True]), np.concatenate(keys[False]))
    if len(copied) != records.n_examples(split):
        return None  # damaged: reading the examples raises the error
    return copied if copied.any() else None


def row_selection(records: RecordFolder, name: str, chosen: NDArray[np.bool_]) -> Selection:
    """The examples at the chosen rows of the manifest, from any split.

    Args:
        records: a finished record folder.
        name: for messages.
        chosen: one bool per row of the manifest.
    """
    return Selection(name, tuple(shard for shard in records.shards() if shard.examples), chosen)


def manifest_rows(records: RecordFolder, selection: Selection, *columns: str) -> Iterator[pa.Table]:
    """Columns of the manifest's rows of a selection, in its order, one table per shard.

    Raises:
        RecordsError: a part of the manifest is missing or damaged, or has other rows than its shard.
    """
    begin = 0
    for shard in selection.shards:
        (rows,) = records.manifest(*columns, shards=[shard])
        if len(rows) != shard.examples:
            raise RecordsError(
                f"{records.path}: its manifest has {len(rows)} rows of {shard.name}, which holds "
                f"{pluralize(shard.examples, 'example')}; run ser-batch verify to list all problems"
            )
        if selection.chosen is not None:
            rows = rows.filter(pa.array(selection.chosen[begin : begin + shard.examples]))
        begin += shard.examples
        yield rows


def manifest_column(records: RecordFolder, selection: Selection, name: str) -> pa.ChunkedArray:
    """One column of the manifest's rows of a selection, in its order.

    Raises:
        RecordsError: as `manifest_rows` does.
    """
    return pa.concat_tables(manifest_rows(records, selection, name))[name]


def read_examples(records: RecordFolder, selection: Selection) -> Iterator[Example]:
    """Read the examples of a selection in shard order, which is the manifest's order, without TensorFlow.

    Raises:
        RecordsError: the selection is empty, or a shard is damaged.
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
                f"{records.path}: is damaged ({path.name} {error}); run ser-batch verify to list all problems"
            ) from error


def _shard_paths(records: RecordFolder, selection: Selection) -> list[Path]:
    paths = records.shard_paths(selection.shards)
    if not selection.n_examples:
        raise RecordsError(f"{records.path}: no examples in {selection.name}")
    return paths
