"""Plan of a record folder: the assignment of labelled recordings to shards.

The plan is fixed before work starts and is a function of the input only.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.duplicates import Duplicates, duplicate_warnings
from ser_batch.corpus.labels import Labelled
from ser_batch.corpus.splits import SPLITS, SplitPlan, assign_splits, split_warnings, stable_keys
from ser_batch.corpus.table import Recording, Rejection, Rows, recordings, selected
from ser_batch.records.tfds import shard_name
from ser_batch.storage.fingerprints import json_list_fingerprint
from ser_batch.storage.tables import codes, counts, plain

# Small shards need many open files; large shards lose more work when a build is interrupted.
_MIN_PER_SHARD = 32
_MAX_PER_SHARD = 1000
_WANTED_SHARDS = 64


@dataclass(frozen=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        front_end: how waveforms become log-mels.
        split: the division into splits.
        num_shards: shards per split; None: derived from the number of recordings.
    """

    front_end: FrontEnd
    split: SplitPlan
    num_shards: int | None = None


@dataclass(frozen=True)
class ShardTask:
    """Task of a worker: one shard to write.

    Attributes:
        folder: the record folder.
        name: the shard's file name.
        split: the split it belongs to.
        front_end: how waveforms become log-mels.
        labels: label names in order.
        recordings: the shard's recordings in order, with a column ``recording`` for the number in the plan.
        refused: recordings that are not decoded, as number to (stage, reason): those that crash the worker, and
            those that repeat another.
    """

    folder: str
    name: str
    split: str
    front_end: FrontEnd
    labels: tuple[str, ...]
    recordings: pa.Table
    refused: Mapping[int, tuple[str, str]] = field(default_factory=dict)

    def numbered(self) -> list[tuple[int, Recording]]:
        """The recordings with their numbers."""
        return list(zip(self.recordings["recording"].to_pylist(), recordings(self.recordings), strict=True))


@dataclass(frozen=True, eq=False)
class PlannedShard:
    """The recordings of one shard.

    Attributes:
        name: the shard's file name.
        split: the split it belongs to.
        rows: the recordings' numbers, in the shard's order.
    """

    name: str
    split: str
    rows: Rows


@dataclass(frozen=True)
class BuildPlan:
    """Plan of a build, which fixes the content of the finished folder.

    Attributes:
        front_end: how waveforms become log-mels.
        labels: label names, sorted.
        recordings: the table in SOURCE's order, with labels and splits; a recording's number is its row.
        rejections: unusable inputs that are found before any audio is read.
        shards: in the folder's order.
        settings: JSON that must be equal for a build to be resumed.
        warnings: messages for the user about splits and duplicates.
    """

    front_end: FrontEnd
    labels: tuple[str, ...]
    recordings: pa.Table
    rejections: list[Rejection]
    shards: list[PlannedShard]
    settings: dict[str, Any]
    warnings: list[str]

    def task(self, shard: PlannedShard, folder: Path, refused: Mapping[int, tuple[str, str]] = {}) -> ShardTask:
        """The task that writes a shard."""
        table = plain(selected(self.recordings, shard.rows)).append_column("recording", pa.array(shard.rows))
        return ShardTask(str(folder), shard.name, shard.split, self.front_end, self.labels, table, refused)


def plan_build(labelled: Labelled, options: BuildOptions, same: Duplicates | None = None) -> BuildPlan:
    """Plan a build: assign every recording to a shard.

    Args:
        labelled: the recordings.
        options: the build's options.
        same: from `ser_batch.corpus.duplicates.find_duplicates`; None: files are compared by their paths only.

    Raises:
        LabelError: a recording's given split is unknown.
    """
    table = assign_splits(labelled.recordings, options.split, None if same is None else same.duplicate_of)
    labels = tuple(sorted(label for (label,) in counts(table, "label")))
    splits, numbers = codes(table, "split")
    # Shuffled once, so that labels and speakers are mixed when shards are read in order.
    parts = (f"{one.file}\0{one.start_secs}\0{one.end_secs}" for one in recordings(table))
    keys = stable_keys(options.split.seed, parts)
    shards = []
    for split in SPLITS:
        of_split = np.flatnonzero(numbers == splits.index(split))
        of_split = of_split[np.argsort(keys[of_split], kind="stable")]
        number = min(options.num_shards or _count_shards(len(of_split)), len(of_split))
        for index in range(number):
            rows = of_split[index * len(of_split) // number : (index + 1) * len(of_split) // number]
            shards.append(PlannedShard(shard_name(split, index, number), split, rows))
    has_given = labelled.recordings["split"].null_count < len(table)
    settings = _settings(labelled, options, table, labels) | {"shards": Counter(shard.split for shard in shards)}
    if has_given:
        settings["given_splits"] = True  # a speaker may be in several given splits
    warnings = split_warnings(table, options.split, has_given)
    if same is not None:
        warnings += duplicate_warnings(table, same)
    return BuildPlan(options.front_end, labels, table, labelled.rejections, shards, settings, warnings)


def _count_shards(n_recordings: int) -> int:
    per_shard = min(max(n_recordings // _WANTED_SHARDS, _MIN_PER_SHARD), _MAX_PER_SHARD)
    return -(-n_recordings // per_shard)


def _settings(labelled: Labelled, options: BuildOptions, table: pa.Table, labels: Sequence[str]) -> dict[str, Any]:
    settings = {
        "front_end": options.front_end.to_json(),
        "labels": list(labels),
        "label_rule": labelled.rule,
        "split": dataclasses.asdict(options.split) | {"fractions": list(options.split.fractions)},
        "recordings": json_list_fingerprint(map(planned_row, recordings(table))),
        "rejections": json_list_fingerprint(map(Rejection.row, labelled.rejections)),
    }
    if labelled.left_out:
        settings["left_out"] = dict(sorted(labelled.left_out.items()))
    return settings


def planned_row(recording: Recording) -> tuple[str, ...]:
    """A recording as text, for fingerprints: file, start, end, label, speaker, split."""
    end = "" if recording.end_secs is None else repr(recording.end_secs)
    start = repr(recording.start_secs)
    return recording.file, start, end, recording.label or "", recording.speaker or "", recording.split or ""
