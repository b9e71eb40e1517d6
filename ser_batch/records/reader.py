"""Selections of a record folder's examples, read without TensorFlow."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.splits import stable_keys
from ser_batch.errors import RecordsError
from ser_batch.records.examples import Example, parse
from ser_batch.records.folder import RecordFolder
from ser_batch.records.tfrecords import read_records


@dataclass(frozen=True)
class TrainValidation:
    """What a training sees.

    Attributes:
        train: what it learns from.
        validation: what is measured after every epoch and calibrates the result; it chooses nothing.
        description: JSON, what tells these sides from others of the same records.
        n_copies: examples of the split ``train`` that are left out, as another split has their audio.
    """

    train: Selection
    validation: Selection | None
    description: Any
    n_copies: int = 0


def split_train_validation(records: RecordFolder) -> TrainValidation:
    """The splits ``train`` and ``validation``, without what is in ``train`` and in another split under two names.

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


def copies_of_other_splits(records: RecordFolder, split: str) -> NDArray[np.bool_] | None:
    """Which examples of a split have the same part of the same audio as one of another split; None: none has.

    So it may be where splits were given.

    Returns:
        One bool for every example of the split, in shard order.
    """
    if records.n_examples() == records.n_examples(split):
        return None
    is_mine = array("b")

    def audio() -> Iterator[str]:
        for row in records.manifest():
            is_mine.append(row["split"] == split)
            yield f"{row['sha256']}\0{row['start']}\0{row['end']}"

    keys = stable_keys(0, audio())
    if len(keys) != records.n_examples():
        return None  # damaged: who reads the examples tells how
    mine = np.frombuffer(is_mine, np.bool_)
    copied = np.isin(keys[mine], keys[~mine])
    return copied if copied.any() else None


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


def _shard_paths(records: RecordFolder, selection: Selection) -> list[Path]:
    paths = records.shard_paths(selection.shards)
    if not selection.n_examples:
        raise RecordsError(f"{records.path}: no examples in {selection.name}")
    return paths
