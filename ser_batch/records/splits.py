"""Which recording goes to which split: speaker-disjoint wherever speakers are known."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ser_batch.audio.recordings import Recording
from ser_batch.errors import LabelError, UsageError

SPLITS = ("train", "validation", "test")
SplitRule = Literal["speakers", "random", "none"]


@dataclass(frozen=True)
class SplitPlan:
    """How recordings are divided.

    Attributes:
        rule: ``speakers``: no speaker in two splits; ``random``: stratified by label; ``none``: all are ``train``.
        fractions: the share of `SPLITS`, summing to 1.
        seed: which of the possible divisions.
    """

    rule: SplitRule = "speakers"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0


def parse_rule(text: str) -> SplitRule:
    """The rule of that name.

    Raises:
        UsageError: there is none.
    """
    for rule in get_args(SplitRule):
        if text == rule:
            return text  # type: ignore[return-value]
    raise UsageError(f"--split {text}: choose one of {', '.join(get_args(SplitRule))}")


def parse_fractions(text: str) -> tuple[float, float, float]:
    """``0.8,0.1,0.1`` as numbers.

    Raises:
        UsageError: not three shares from 0 to 1 that sum to 1.
    """
    try:
        train, validation, test = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--fractions {text}: give three numbers, as 0.8,0.1,0.1") from None
    if not (min(train, validation, test) >= 0 and abs(train + validation + test - 1) <= 1e-6):  # NaN, too
        raise UsageError(f"--fractions {text}: train, validation and test must be 0 or more and sum to 1")
    return train, validation, test


def stable_order(seed: int, key: str) -> bytes:
    """Sorting by this shuffles: the same way for the same seed, on every machine and in every process."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()


def assign_splits(
    recordings: Sequence[Recording], plan: SplitPlan, duplicates: Mapping[str, str] | None = None
) -> list[Recording]:
    """Every recording with its split, in the given order.

    A split that a recording already has (a CSV's column) stays, and draws the rest of its group with it.
    Groups are never divided: a speaker's recordings, or the parts of one file, and whoever shares a file's bytes.

    Args:
        recordings: with labels.
        plan: how to divide.
        duplicates: path of a file that repeats another, to the path of that one.

    Raises:
        LabelError: a given split is none of `SPLITS`.
    """
    for recording in recordings:
        if recording.split is not None and recording.split not in SPLITS:
            raise LabelError(f"{recording.file}: split {recording.split!r} is none of {', '.join(SPLITS)}")
    if plan.rule == "none":
        return [replace(recording, split=recording.split or "train") for recording in recordings]
    twin_of = duplicates or {}
    if plan.rule == "speakers" and any(recording.speaker for recording in recordings):
        groups = _speaker_groups(recordings, twin_of)
        of_group = _speaker_splits(recordings, groups, plan)
    else:
        groups = [twin_of.get(recording.path, recording.path) for recording in recordings]
        of_group = _random_splits(recordings, groups, plan)
    return [
        replace(recording, split=recording.split or of_group.get(group, "train"))
        for recording, group in zip(recordings, groups, strict=True)
    ]


def _speaker_groups(recordings: Sequence[Recording], twin_of: Mapping[str, str]) -> list[str]:
    """Each recording's group: all that a chain of shared speakers and shared audio joins; empty without a speaker."""
    leader: dict[tuple[str, str], tuple[str, str]] = {}

    def lead(node: tuple[str, str]) -> tuple[str, str]:
        while (above := leader.setdefault(node, node)) != node:
            leader[node] = leader[above]
            node = leader[node]
        return node

    audio = [("audio", twin_of.get(recording.path, recording.path)) for recording in recordings]
    for recording, node in zip(recordings, audio, strict=True):
        if recording.speaker:
            # "speaker" sorts after "audio", and leads: a group is called by its last speaker.
            first, second = sorted((lead(node), lead(("speaker", recording.speaker))))
            leader[first] = second
    leaders = [lead(node) for node in audio]
    return [name if kind == "speaker" else "" for kind, name in leaders]


def _given_splits(recordings: Sequence[Recording], groups: Sequence[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for recording, group in zip(recordings, groups, strict=True):
        if recording.split is not None and group:
            given.setdefault(group, recording.split)
    return given


def _speaker_splits(recordings: Sequence[Recording], groups: Sequence[str], plan: SplitPlan) -> dict[str, str]:
    """The split of each group of speakers: each goes where most recordings are still wanted.

    Groups much larger than the smallest wanted split are placed first, so that they go to the largest.
    """
    sizes = Counter(group for group in groups if group)
    of_speaker = _given_splits(recordings, groups)
    wanted = {split: share * sizes.total() for split, share in zip(SPLITS, plan.fractions, strict=True) if share > 0}
    for speaker, split in of_speaker.items():
        if split in wanted:
            wanted[split] -= sizes[speaker]
    largest_small = 2 * min((count for count in wanted.values() if count > 0), default=0)
    free = sorted(
        (speaker for speaker in sizes if speaker not in of_speaker),
        key=lambda speaker: (sizes[speaker] <= largest_small, stable_order(plan.seed, speaker)),
    )
    empty = [split for split in ("train", "test", "validation") if split in wanted and split not in of_speaker.values()]
    for position, speaker in enumerate(free):
        must_fill = empty and len(free) - position <= len(empty)
        split = empty[0] if must_fill else max(wanted, key=lambda name: wanted[name])
        of_speaker[speaker] = split
        wanted[split] -= sizes[speaker]
        if split in empty:
            empty.remove(split)
    return of_speaker


def _random_splits(recordings: Sequence[Recording], groups: Sequence[str], plan: SplitPlan) -> dict[str, str]:
    """The split of each file (all its parts and copies), each label divided by the fractions."""
    of_path = _given_splits(recordings, groups)
    files_of_label: defaultdict[str, list[tuple[bytes, str]]] = defaultdict(list)
    seen = set(of_path)
    for recording, group in zip(recordings, groups, strict=True):
        if group not in seen:
            seen.add(group)
            files_of_label[recording.label or ""].append((stable_order(plan.seed, recording.file), group))
    owed = dict.fromkeys(SPLITS, 0.0)
    for _, files in sorted(files_of_label.items()):
        for split, share in zip(SPLITS, plan.fractions, strict=True):
            owed[split] += share * len(files)
        for _, path in sorted(files):
            split = max(SPLITS, key=lambda name: owed[name])
            of_path[path] = split
            owed[split] -= 1
    return of_path


def split_warnings(recordings: Sequence[Recording], plan: SplitPlan) -> list[str]:
    """What a user should know of a division before trusting a score on it, a line each."""
    speakers: defaultdict[str, set[str]] = defaultdict(set)
    labels_of_split: defaultdict[str, set[str]] = defaultdict(set)
    unknown = 0
    for recording in recordings:
        split = recording.split or ""
        labels_of_split[split].add(recording.label or "")
        if recording.speaker:
            speakers[split].add(recording.speaker)
        else:
            unknown += 1
    lines = []
    if not speakers:
        if plan.rule == "speakers":
            lines.append(
                "no speakers are known, so the splits are random: the same voice may stand in several, "
                "and scores will be too good; give a speaker column to divide by speaker"
            )
    else:
        if unknown and plan.rule == "speakers":
            lines.append(f"{unknown} recordings have no speaker and went to train")
        shared = sorted(
            speaker
            for speaker, count in Counter(speaker for of_split in speakers.values() for speaker in of_split).items()
            if count > 1
        )
        if shared:
            lines.append(f"{len(shared)} speakers stand in more than one split ({', '.join(shared[:5])})")
        if plan.rule == "speakers" and 0 < len(speakers["test"]) < 4:
            lines.append(
                f"the test split has {len(speakers['test'])} of {len(set().union(*speakers.values()))} speakers, "
                "so a score on it is noisy: build with several seeds and take the mean"
            )
    labels = set().union(*labels_of_split.values())
    if len(labels) == 1:
        lines.append(f"all recordings have one label, {min(labels)}: nothing can be trained on them")
    for split, share in zip(SPLITS, plan.fractions, strict=True):
        if share > 0 and plan.rule != "none" and split not in labels_of_split:
            lines.append(f"the {split} split is empty: there are too few recordings or speakers to divide")
    if missing := labels - labels_of_split["train"]:
        lines.append(f"no training recording of: {', '.join(sorted(missing))}")
    voices: defaultdict[str, set[str]] = defaultdict(set)
    for recording in recordings:
        if recording.speaker:
            voices[recording.label or ""].add(recording.speaker)
    if len(set().union(*speakers.values())) > 1:
        lines += [
            f"only one speaker ({min(of_label)}) has recordings of {label}"
            for label, of_label in sorted(voices.items())
            if len(of_label) == 1
        ]
    return lines
