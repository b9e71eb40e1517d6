"""Assignment of recordings to splits: speaker-disjoint if speakers are known."""

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ser_batch.corpus.table import Rows, first_of_file, recordings
from ser_batch.errors import LabelError, UsageError
from ser_batch.formatting import pluralize
from ser_batch.storage.tables import codes, counts, encoded, with_column

SPLITS = ("train", "validation", "test")
SplitRule = Literal["speakers", "random", "none"]

# Penalty for a label that is missing in a split: a label with two speakers is placed in train and test.
_WEIGHT = {SPLITS.index("train"): 4, SPLITS.index("test"): 2, SPLITS.index("validation"): 1}
# To avoid missing labels, a split may grow to at most this multiple of its share.
_MAX_SHARE_FACTOR = 2.0
_EMPTY_WEIGHT = 1 << 32  # penalty for an empty split: more than that of all labels
# Upper limits of the number of orders in which groups are placed, and of placements over all orders.
_MAX_ORDERS = 64
_MAX_PLACEMENTS = 200_000
_LISTED_LABELS = 10

# Numbers of splits in `SPLITS`, int8 (n,); -1: none.
Codes = NDArray[np.int8]


@dataclass(frozen=True)
class SplitPlan:
    """Options of the division into splits.

    Attributes:
        rule: ``speakers``: no speaker in two splits; ``random``: stratified by label; ``none``: all are ``train``.
        fractions: the share of each of `SPLITS`, summing to 1.
        seed: of the random order.
    """

    rule: SplitRule = "speakers"
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0


def parse_rule(text: str) -> SplitRule:
    """Parse the name of a rule.

    Raises:
        UsageError: there is no such rule.
    """
    for rule in get_args(SplitRule):
        if text == rule:
            return text  # type: ignore[return-value]
    raise UsageError(f"--split {text}: choose one of {', '.join(get_args(SplitRule))}")


def parse_fractions(text: str) -> tuple[float, float, float]:
    """Parse fractions such as ``0.8,0.1,0.1``.

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


def shuffle_key(seed: int, key: str) -> bytes:
    """Sort key for a shuffle that depends only on the seed, not on machine or process."""
    return hashlib.sha256(f"{seed}\0{key}".encode()).digest()


def stable_keys(seed: int, keys: Iterable[str]) -> NDArray[np.uint64]:
    """The first 64 bits of each `shuffle_key`, uint64 ``(n,)``, to sort millions of keys."""
    beginnings = array("Q", (int.from_bytes(shuffle_key(seed, key)[:8], "big") for key in keys))
    return np.frombuffer(beginnings, np.uint64)


def assign_splits(table: pa.Table, plan: SplitPlan, duplicate_of: Rows | None = None) -> pa.Table:
    """Assign a split to every recording.

    A given split (from a CSV's column) is kept, and the rest of the recording's group gets the same split. A group is
    never divided otherwise. It is a speaker's recordings or the parts of one file, with all copies of their files.

    Args:
        table: recordings with labels.
        plan: options of the division.
        duplicate_of: for each recording the number of the first one with the same audio ``(n,)``; None: compare paths
            only.

    Raises:
        LabelError: a given split is not one of `SPLITS`.
    """
    splits = _given_splits(table)
    if plan.rule == "none":
        return with_column(table, "split", encoded(SPLITS, np.maximum(splits, SPLITS.index("train"))))
    if duplicate_of is None:
        duplicate_of = first_of_file(table)
    if plan.rule == "speakers" and table["speaker"].null_count < len(table):
        groups, names = _speaker_groups(table, duplicate_of)
        found = _groups_of(table, groups, names, _drawn_splits(groups, splits, len(names)))
        split_of = _speaker_splits(found, plan)
        of_group = np.array([split_of.get(name, SPLITS.index("train")) for name in names], np.int8)
    else:
        groups = duplicate_of
        of_group = _random_splits(table, groups, _drawn_splits(groups, splits, len(groups)), plan)
    return with_column(table, "split", encoded(SPLITS, np.where(splits < 0, of_group[groups], splits)))


def _given_splits(table: pa.Table) -> Codes:
    """Index of each recording's given split in `SPLITS`; -1 if none is given."""
    given, numbers = codes(table, "split")
    for number in np.unique(numbers).tolist():
        if given[number] not in (None, *SPLITS):
            (wrong,) = recordings(table.slice(int(np.argmax(numbers == number)), 1))
            raise LabelError(f"{wrong.file}: split {wrong.split!r} is not one of {', '.join(SPLITS)}")
    return np.array([SPLITS.index(split) if split in SPLITS else -1 for split in given], np.int8)[numbers]


def _drawn_splits(groups: Rows, splits: Codes, n_groups: int) -> Codes:
    """The first given split among each group's recordings; -1 for groups without one."""
    drawn = np.full(n_groups, -1, np.int8)
    given = np.flatnonzero(splits >= 0)[::-1]
    drawn[groups[given]] = splits[given]  # reversed order: the first recording's split is assigned last
    return drawn


def _speaker_groups(table: pa.Table, duplicate_of: Rows) -> tuple[Rows, list[str]]:
    """Each recording's group ``(n,)``, and the groups' names; speakers that share audio are in one group.

    Groups are connected components of speakers, each named after its last speaker. Group 0 is that of recordings
    without a speaker.
    """
    from scipy.sparse import coo_array  # imported here, as infer and workers also import this module
    from scipy.sparse.csgraph import connected_components

    found, numbers = codes(table, "speaker")
    names = sorted({speaker or "" for speaker in found})
    number_of = {name: number for number, name in enumerate(names)}
    speakers = np.array([number_of[speaker or ""] for speaker in found])[numbers]
    of_audio = np.zeros(len(duplicate_of), np.int64)  # the last speaker of each audio
    np.maximum.at(of_audio, duplicate_of, speakers)
    joined = of_audio[duplicate_of]
    apart = (speakers > 0) & (speakers != joined)
    edges = np.ones(np.count_nonzero(apart), np.int8), (speakers[apart], joined[apart])
    n_groups, components = connected_components(coo_array(edges, (len(names), len(names))), directed=False)
    last = np.zeros(n_groups, np.int64)
    last[components] = np.arange(len(names))  # the last assignment is kept
    return last[components][joined], names


@dataclass(frozen=True, slots=True)
class _Group:
    """Speakers who must be in the same split.

    Attributes:
        name: of the group.
        counts: number of recordings of each label: pairs of a label's number and a count.
        split: index of the given split in `SPLITS`; -1: none is given.
    """

    name: str
    counts: tuple[tuple[int, int], ...]
    split: int

    @property
    def size(self) -> int:
        """Number of recordings."""
        return sum(count for _, count in self.counts)


def _groups_of(table: pa.Table, groups: Rows, names: Sequence[str], drawn: Codes) -> list[_Group]:
    """The groups that have recordings; without group 0, which has no speaker."""
    labels, numbers = codes(table, "label")
    n = len(labels)
    cells, sizes = np.unique(groups * n + numbers, return_counts=True)
    pairs: dict[tuple[int, int], tuple[int, int]] = {}  # each stored once, whatever the number of groups
    found = []
    for group, of_group in groupby(zip(map(int, cells), map(int, sizes), strict=True), lambda cell: cell[0] // n):
        counted = ((cell % n, count) for cell, count in of_group)
        if group:
            mine = tuple(pairs.setdefault(pair, pair) for pair in counted)
            found.append(_Group(names[group], mine, int(drawn[group])))
    return found


def _speaker_splits(groups: Sequence[_Group], plan: SplitPlan) -> dict[str, int]:
    """Index of each group's split in `SPLITS`, by name; each label is divided by the fractions if possible.

    Groups are placed one after another, in a random order from the seed. If a label would be missing in a split,
    other orders are tried, and the best result is used.
    """
    first = _placed(groups, plan, 0)
    if not first.is_compromise:
        return first.split_of
    others = range(1, min(_MAX_ORDERS, _MAX_PLACEMENTS // len(groups)))
    return min([first, *(_placed(groups, plan, number) for number in others)], key=_Assignment.distance).split_of


def _placed(groups: Sequence[_Group], plan: SplitPlan, number: int) -> "_Assignment":
    """Place all groups, in the seed's order of this number.

    Groups much larger than the smallest split's target are placed first, so that they go to the largest split.
    """
    placing = _Assignment(groups, plan.fractions)
    largest_small = 2 * min((count for count in placing.owed() if count > 0), default=0)
    prefix = f"{number}\0" if number else ""
    free = [group for group in groups if group.split < 0]
    free.sort(key=lambda group: (group.size <= largest_small, shuffle_key(plan.seed, prefix + group.name)))
    for group in free:
        placing.place(group)
    return placing


class _Assignment:
    """Greedy placement of groups into splits.

    Attributes:
        wanted, placed: target and current number of recordings of each label, for each of `SPLITS`.
        split_of: index of the split of each placed group.
        is_compromise: whether a group was placed away from its best split to avoid a missing label.
    """

    def __init__(self, groups: Sequence[_Group], fractions: Sequence[float]) -> None:
        n_labels = 1 + max((label for group in groups for label, _ in group.counts), default=-1)
        totals, self._to_come = [0] * n_labels, [0] * n_labels
        self.placed = [[0] * n_labels for _ in SPLITS]
        self._sizes = [0] * len(SPLITS)
        self.split_of: dict[str, int] = {}
        self.is_compromise = False
        for group in groups:
            for label, count in group.counts:
                totals[label] += count
                self._to_come[label] += 1
        self.wanted = [[share * total for total in totals] for share in fractions]
        self._used = [split for split in _WEIGHT if fractions[split] > 0]
        self._most = [_MAX_SHARE_FACTOR * share * sum(totals) for share in fractions]
        self._groups_to_come = len(groups)
        for group in groups:
            if group.split >= 0:
                self._put(group, group.split)

    def owed(self) -> list[float]:
        """Number of recordings that each split still needs to reach its target."""
        return [sum(wanted) - size for wanted, size in zip(self.wanted, self._sizes, strict=True)]

    def _lacking(self, label: int) -> list[int]:
        return [split for split in self._used if not self.placed[split][label]]

    def distance(self) -> tuple[int, float]:
        """Distance from the targets: penalty for missing labels, then chi-squared distance of the counts."""
        labels = range(len(self._to_come))
        lacking = sum(_WEIGHT[split] for label in labels for split in self._lacking(label))
        pairs = (zip(self.wanted[split], self.placed[split], strict=True) for split in self._used)
        return lacking, sum((placed - wanted) ** 2 / wanted for pair in pairs for wanted, placed in pair if wanted)

    def place(self, group: _Group) -> None:
        """Place a group in the split where a label would otherwise be missing, else where counts fit best."""
        needed = self._needed(group)
        changes = {split: self._change(group, split) for split in self._used}
        chosen = min(self._used, key=lambda split: (-needed[split], changes[split]))
        self.is_compromise |= changes[chosen] > min(changes.values())
        self._put(group, chosen)

    def _needed(self, group: _Group) -> dict[int, int]:
        """For each split, the penalty for labels that can no longer be placed there without this group."""
        empty = [split for split in self._used if not self._sizes[split]]
        last = self._groups_to_come <= len(empty)
        needed = {split: _EMPTY_WEIGHT * _WEIGHT[split] if last and split in empty else 0 for split in self._used}
        for label, _ in group.counts:
            lacking = self._lacking(label)
            if lacking and self._to_come[label] <= len(lacking):
                for split in lacking:
                    needed[split] += _WEIGHT[split] * (self._sizes[split] + group.size <= self._most[split])
        return needed

    def _change(self, group: _Group, split: int) -> float:
        """Increase of the chi-squared distance from the target counts."""
        wanted, placed = self.wanted[split], self.placed[split]
        return sum(n * (n + 2 * (placed[label] - wanted[label])) / wanted[label] for label, n in group.counts)

    def _put(self, group: _Group, split: int) -> None:
        self.split_of[group.name] = split
        self._groups_to_come -= 1
        self._sizes[split] += group.size
        for label, count in group.counts:
            self.placed[split][label] += count
            self._to_come[label] -= 1


def _random_splits(table: pa.Table, groups: Rows, drawn: Codes, plan: SplitPlan) -> Codes:
    """The split of each file with all its parts and copies; each label is divided by the fractions."""
    of_group = drawn.copy()
    free = np.flatnonzero((groups == np.arange(len(groups))) & (drawn < 0))  # a group's number is its first recording's
    free = free[np.argsort(stable_keys(plan.seed, (one.file for one in recordings(table.take(free)))), kind="stable")]
    labels, numbers = codes(table, "label")
    owed = dict.fromkeys(range(len(SPLITS)), 0.0)
    for _, label in sorted((label or "", number) for number, label in enumerate(labels)):
        of_label = free[numbers[free] == label]
        for split, share in enumerate(plan.fractions):
            owed[split] += share * len(of_label)
        for number in of_label.tolist():
            split = max(owed, key=lambda one: owed[one])
            of_group[number] = split
            owed[split] -= 1
    return of_group


def split_warnings(table: pa.Table, plan: SplitPlan, has_given: bool = False) -> list[str]:
    """Warnings about divisions that make scores unreliable, one line each.

    Args:
        table: recordings with splits.
        plan: options of the division.
        has_given: whether some recordings had a given split.
    """
    speakers: defaultdict[str, set[str]] = defaultdict(set)
    labels: defaultdict[str, set[str]] = defaultdict(set)
    voices: defaultdict[str, set[str]] = defaultdict(set)
    unknown = 0
    for (label, speaker, split), count in counts(table, "label", "speaker", "split").items():
        labels[split or ""].add(label or "")
        if speaker:
            speakers[split or ""].add(speaker)
            voices[label or ""].add(speaker)
        else:
            unknown += count
    lines = _speaker_warnings(speakers, unknown, plan, has_given) + _label_warnings(labels, plan)
    if len(set().union(*speakers.values())) > 1:
        lines += [
            f"only one speaker ({min(of_label)}) has recordings of {label}"
            for label, of_label in sorted(voices.items())
            if len(of_label) == 1
        ]
    return lines


def _speaker_warnings(speakers: Mapping[str, set[str]], unknown: int, plan: SplitPlan, has_given: bool) -> list[str]:
    """Warnings about the speakers of each split, and about recordings without a speaker."""
    lines = []
    if not speakers:
        if plan.rule == "speakers":
            random = "the splits that are not given" if has_given else "the splits"
            lines.append(
                f"no speakers are known, so {random} are random: a speaker may be in several, "
                "so scores will be optimistic; give a speaker column to divide by speaker"
            )
        return lines
    if unknown and plan.rule == "speakers":
        lines.append(f"without a speaker, and so in train: {pluralize(unknown, 'recording')}")
    n_splits = Counter(speaker for of_split in speakers.values() for speaker in of_split)
    shared = sorted(speaker for speaker, count in n_splits.items() if count > 1)
    if shared:
        lines.append(f"in more than one split: {pluralize(len(shared), 'speaker')} ({', '.join(shared[:5])})")
    if plan.rule == "speakers" and 0 < len(speakers.get("test", ())) < 4:
        lines.append(
            f"the test split has {len(speakers['test'])} of {len(n_splits)} speakers, so a score on it is noisy: "
            "use cross-validate, or build with several seeds and take the mean"
        )
    return lines


def _label_warnings(labels: Mapping[str, set[str]], plan: SplitPlan) -> list[str]:
    """Warnings about the labels of each split."""
    lines = []
    known = set().union(*labels.values())
    if len(known) == 1:
        lines.append(f"all recordings have one label, {min(known)}: nothing can be trained on them")
    for split, share in zip(SPLITS, plan.fractions, strict=True):
        if share > 0 and plan.rule != "none" and split not in labels:
            lines.append(f"the {split} split is empty: there are too few recordings or speakers to divide")
    for split in SPLITS:
        absent = sorted(known - labels.get(split, set()))
        if absent and (split in labels or split == "train"):
            more = f" and {len(absent) - _LISTED_LABELS} more" if len(absent) > _LISTED_LABELS else ""
            advice = "" if split == "train" else " (use cross-validate, or other --fractions or --seed)"
            lines.append(f"the {split} split has no recording of: {', '.join(absent[:_LISTED_LABELS])}{more}{advice}")
    return lines
