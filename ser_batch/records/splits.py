"""Which recording goes to which split: speaker-disjoint wherever speakers are known."""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.recordings import Recordings, Rows
from ser_batch.errors import LabelError, UsageError
from ser_batch.wording import counted

SPLITS = ("train", "validation", "test")
SplitRule = Literal["speakers", "random", "none"]

# Numbers of splits in `SPLITS`, int8 (n,); -1: none.
Codes = NDArray[np.int8]


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


def stable_keys(seed: int, keys: Iterable[str]) -> NDArray[np.uint64]:
    """The beginnings of `stable_order`, big enough to sort millions by ``(n,)``."""
    beginnings = array("Q", (int.from_bytes(stable_order(seed, key)[:8], "big") for key in keys))
    return np.frombuffer(beginnings, np.uint64)


def assign_splits(recordings: Recordings, plan: SplitPlan, twins: Rows | None = None) -> Recordings:
    """Every recording with its split, in the given order.

    A split that a recording already has (a CSV's column) stays, and draws the rest of its group with it.
    Groups are never divided: a speaker's recordings, or the parts of one file, and whoever shares a file's bytes.

    Args:
        recordings: with labels.
        plan: how to divide.
        twins: for each recording the number of the first one with the same audio ``(n,)``; None: look at paths alone.

    Raises:
        LabelError: a given split is none of `SPLITS`.
    """
    splits = _given_splits(recordings)
    if plan.rule == "none":
        return recordings.with_splits(SPLITS, np.maximum(splits, SPLITS.index("train")))
    if twins is None:
        twins = recordings.first_of_file()
    speakers, _ = recordings.column("speaker")
    if plan.rule == "speakers" and any(speakers):
        groups, names = _speaker_groups(recordings, twins)
        of_group = _speaker_splits(names, np.bincount(groups), _drawn_splits(groups, splits, len(names)), plan)
    else:
        groups = twins
        of_group = _random_splits(recordings, groups, _drawn_splits(groups, splits, len(groups)), plan)
    return recordings.with_splits(SPLITS, np.where(splits < 0, of_group[groups], splits))


def _given_splits(recordings: Recordings) -> Codes:
    """The number of each recording's given split in `SPLITS`; -1 where none is given."""
    given, codes = recordings.column("split")
    for code in np.unique(codes).tolist():
        if given[code] not in (None, *SPLITS):
            wrong = recordings[int(np.argmax(codes == code))]
            raise LabelError(f"{wrong.file}: split {wrong.split!r} is none of {', '.join(SPLITS)}")
    numbers = [SPLITS.index(split) if split in SPLITS else -1 for split in given]
    return np.array(numbers, np.int8)[codes]


def _drawn_splits(groups: Rows, splits: Codes, n_groups: int) -> Codes:
    """The split of each group one of whose recordings has one: the first such; -1 for all others."""
    drawn = np.full(n_groups, -1, np.int8)
    given = np.flatnonzero(splits >= 0)[::-1]
    drawn[groups[given]] = splits[given]  # the last assignment, which is the first recording's, stays
    return drawn


def _speaker_groups(recordings: Recordings, twins: Rows) -> tuple[Rows, list[str]]:
    """Each recording's group ``(n,)``: all that a chain of shared speakers and shared audio joins; and their names.

    A group is called by the last of its speakers; group 0, without a name, has none.
    """
    found, codes = recordings.column("speaker")
    names = sorted({speaker or "" for speaker in found} | {""})
    place = {name: number for number, name in enumerate(names)}
    speakers = np.array([place[speaker or ""] for speaker in found])[codes]
    leader = list(range(len(names)))

    def lead(speaker: int) -> int:
        while leader[speaker] != speaker:
            leader[speaker] = leader[leader[speaker]]
            speaker = leader[speaker]
        return speaker

    of_audio = np.zeros(len(twins), np.int64)  # the last speaker of each audio
    np.maximum.at(of_audio, twins, speakers)
    joined = of_audio[twins]
    apart = (speakers > 0) & (speakers != joined)
    for pair in np.unique(speakers[apart] * len(names) + joined[apart]).tolist():
        first, last = sorted(map(lead, divmod(pair, len(names))))
        leader[first] = last
    return np.array([lead(speaker) for speaker in range(len(names))])[joined], names


def _speaker_splits(names: Sequence[str], counts: Rows, drawn: Codes, plan: SplitPlan) -> Codes:
    """The split of each group of speakers: each goes where most recordings are still wanted.

    Groups much larger than the smallest wanted split are placed first, so that they go to the largest.
    What has no speaker, group 0, is for training.
    """
    sizes = {name: count for name, count in zip(names, counts.tolist(), strict=False) if name and count}
    of_speaker = {name: SPLITS[split] for name, split in zip(names, drawn.tolist(), strict=True) if name and split >= 0}
    wanted = {
        split: share * sum(sizes.values()) for split, share in zip(SPLITS, plan.fractions, strict=True) if share > 0
    }
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
    return np.array([SPLITS.index(of_speaker.get(name, "train")) for name in names], np.int8)


def _random_splits(recordings: Recordings, groups: Rows, drawn: Codes, plan: SplitPlan) -> Codes:
    """The split of each file (all its parts and copies), each label divided by the fractions."""
    of_group = drawn.copy()
    free = np.flatnonzero((groups == np.arange(len(groups))) & (drawn < 0))  # a group's number is its first recording's
    free = free[np.argsort(stable_keys(plan.seed, (one.file for one in recordings.take(free))), kind="stable")]
    labels, codes = recordings.column("label")
    owed = dict.fromkeys(range(len(SPLITS)), 0.0)
    for _, label in sorted((label or "", code) for code, label in enumerate(labels)):
        of_label = free[codes[free] == label]
        for split, share in enumerate(plan.fractions):
            owed[split] += share * len(of_label)
        for number in of_label.tolist():
            split = max(owed, key=lambda one: owed[one])
            of_group[number] = split
            owed[split] -= 1
    return of_group


def split_warnings(recordings: Recordings, plan: SplitPlan) -> list[str]:
    """What a user should know of a division before trusting a score on it, a line each."""
    speakers: defaultdict[str, set[str]] = defaultdict(set)
    labels_of_split: defaultdict[str, set[str]] = defaultdict(set)
    voices: defaultdict[str, set[str]] = defaultdict(set)
    unknown = 0
    for (label, speaker, split), count in recordings.kinds().items():
        labels_of_split[split or ""].add(label or "")
        if speaker:
            speakers[split or ""].add(speaker)
            voices[label or ""].add(speaker)
        else:
            unknown += count
    lines = []
    if not speakers:
        if plan.rule == "speakers":
            lines.append(
                "no speakers are known, so the splits are random: the same voice may stand in several, "
                "and scores will be too good; give a speaker column to divide by speaker"
            )
    else:
        if unknown and plan.rule == "speakers":
            lines.append(f"without a speaker, and so in train: {counted(unknown, 'recording')}")
        shared = sorted(
            speaker
            for speaker, count in Counter(speaker for of_split in speakers.values() for speaker in of_split).items()
            if count > 1
        )
        if shared:
            lines.append(f"in more than one split: {counted(len(shared), 'speaker')} ({', '.join(shared[:5])})")
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
    if len(set().union(*speakers.values())) > 1:
        lines += [
            f"only one speaker ({min(of_label)}) has recordings of {label}"
            for label, of_label in sorted(voices.items())
            if len(of_label) == 1
        ]
    return lines
