"""From labelled recordings to the plan of a record folder: which recording goes to which shard.

The plan is fixed before work starts and is a function of the input alone.
"""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.duplicates import SameAudio, duplicate_warnings
from ser_batch.corpus.labels import Labelled
from ser_batch.corpus.splits import SPLITS, SplitPlan, assign_splits, split_warnings, stable_keys
from ser_batch.corpus.table import Recording, Recordings, Rejection
from ser_batch.records.tfds import shard_name
from ser_batch.storage.fingerprints import json_list_fingerprint

# A few recordings a shard waste open files; many waste work when a build is cut short.
_MIN_PER_SHARD = 32
_MAX_PER_SHARD = 1000
_WANTED_SHARDS = 64


@dataclass(frozen=True)
class BuildOptions:
    """What is asked of a build, beside the recordings.

    Attributes:
        front_end: how waveforms become log-mels.
        split: how recordings are divided.
        num_shards: shards per split; None: by the number of recordings.
    """

    front_end: FrontEnd
    split: SplitPlan
    num_shards: int | None = None


@dataclass(frozen=True)
class ShardTask:
    """One shard to write: all a worker needs to know.

    Attributes:
        folder: the record folder.
        name: the shard's file name.
        split: the split it belongs to.
        front_end: how waveforms become log-mels.
        labels: label names in order.
        recordings: what goes into it, in order.
        refused: recordings not to decode, with stage and reason: what ends the worker, what repeats another.
    """

    folder: str
    name: str
    split: str
    front_end: FrontEnd
    labels: tuple[str, ...]
    recordings: Recordings
    refused: tuple[tuple[Recording, str, str], ...] = ()


@dataclass(frozen=True)
class BuildPlan:
    """Everything that decides what a finished folder holds.

    Attributes:
        labels: label names, sorted.
        recordings: in SOURCE's order, each with label and split.
        rejections: inputs that cannot be used, known before any audio is read.
        shards: the tasks, for a folder yet to be named.
        settings: what must be equal for a build to be continued, as JSON.
        warnings: what a user should know of splits and duplicates.
    """

    labels: tuple[str, ...]
    recordings: Recordings
    rejections: list[Rejection]
    shards: list[ShardTask]
    settings: dict[str, Any]
    warnings: list[str]


def plan_build(labelled: Labelled, options: BuildOptions, same: SameAudio | None = None) -> BuildPlan:
    """Fix which recording goes to which shard.

    Args:
        labelled: the recordings.
        options: what is asked for.
        same: from `ser_batch.corpus.duplicates.find_duplicates`; None: files are told apart by their paths alone.

    Raises:
        LabelError: a recording's given split is unknown.
    """
    recordings = assign_splits(labelled.recordings, options.split, None if same is None else same.twins)
    labels = tuple(sorted({label or "" for label, _, _ in recordings.kinds()}))
    split_names, codes = recordings.column("split")
    shards = []
    for split in SPLITS:
        of_split = np.flatnonzero(codes == split_names.index(split))
        # Shuffled once, so that shards, read in order, hold labels and speakers mixed.
        parts = (f"{r.file}\0{r.start_secs}\0{r.end_secs}" for r in recordings.take(of_split))
        of_split = of_split[np.argsort(stable_keys(options.split.seed, parts), kind="stable")]
        number = min(options.num_shards or _shards_for(len(of_split)), len(of_split))
        for index in range(number):
            part = of_split[index * len(of_split) // number : (index + 1) * len(of_split) // number]
            name = shard_name(split, index, number)
            shards.append(ShardTask("", name, split, options.front_end, labels, recordings.take(part)))
    settings: dict[str, Any] = {
        "front_end": options.front_end.to_json(),
        "labels": list(labels),
        "label_rule": labelled.rule,
        "split": dataclasses.asdict(options.split) | {"fractions": list(options.split.fractions)},
        "shards": Counter(task.split for task in shards),
        "recordings": json_list_fingerprint(map(planned_row, recordings)),
        "rejections": json_list_fingerprint(map(Rejection.row, labelled.rejections)),
    }
    has_given = any(split for _, _, split in labelled.recordings.kinds())
    if has_given:
        settings["given_splits"] = True  # they may divide a speaker
    if labelled.left_out:
        settings["left_out"] = dict(sorted(labelled.left_out.items()))
    warnings = split_warnings(recordings, options.split, has_given)
    if same is not None:
        warnings += duplicate_warnings(recordings, same)
    return BuildPlan(labels, recordings, labelled.rejections, shards, settings, warnings)


def _shards_for(n_recordings: int) -> int:
    per_shard = min(max(n_recordings // _WANTED_SHARDS, _MIN_PER_SHARD), _MAX_PER_SHARD)
    return -(-n_recordings // per_shard)


def planned_row(recording: Recording) -> tuple[str, ...]:
    """All that a plan decides of a recording: file, start, end, label, speaker, split."""
    end = "" if recording.end_secs is None else repr(recording.end_secs)
    start = repr(recording.start_secs)
    return recording.file, start, end, recording.label or "", recording.speaker or "", recording.split or ""
