"""Which examples a fold of a cross-validation holds out, which it calibrates with, and which it trains on."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ser_batch.corpus.splits import shuffle_key
from ser_batch.errors import TrainingError, UsageError

FoldRule = Literal["speaker", "random"]


def parse_fold_rule(text: str) -> FoldRule:
    """The rule of that name.

    Raises:
        UsageError: there is none.
    """
    for rule in get_args(FoldRule):
        if text == rule:
            return text  # type: ignore[return-value]
    raise UsageError(f"--by {text}: choose one of {', '.join(get_args(FoldRule))}")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: bools for every row of the manifest.

    Attributes:
        name: the held-out speaker, or a number where there is more than one.
        train, validation, test: the rows of each side; every row is on one side of each fold at most.
        copies: rows with audio of ``validation`` under another speaker's name; trained on together with it only.
    """

    name: str
    train: NDArray[np.bool_]
    validation: NDArray[np.bool_]
    test: NDArray[np.bool_]
    copies: NDArray[np.bool_]

    @property
    def rest(self) -> NDArray[np.bool_]:
        """What the fold's own network is trained on: all that has no audio of ``test``."""
        return self.train | self.validation | self.copies


def make_folds(rows: Sequence[dict[str, str]], by: FoldRule, n_folds: int | None, seed: int) -> list[Fold]:
    """Divide a record folder's examples, whatever split they are in.

    ``speaker``: a fold holds out one speaker, or with ``n_folds`` several of about equally many examples; its
    validation side is one speaker of the others, if there are three or more. ``random``: folds are stratified
    by label, and the validation side is the next fold's test side. What shares audio (parts, windows, copies of
    one file) is never divided. By speaker, an example without one is on no side: it may be anybody's.

    Args:
        rows: of the manifest, all of them, in order.
        by: what is held out as a whole.
        n_folds: how many; None: one for each speaker, or ten.
        seed: which of the possible divisions.

    Raises:
        TrainingError: there are no speakers.
        UsageError: there is too little for so many folds.
    """
    if by == "speaker":
        return _speaker_folds(rows, n_folds, seed)
    n_folds = n_folds or 10
    units = [row["sha256"] for row in rows]
    if len(set(units)) < n_folds:
        raise UsageError(f"--folds {n_folds}: different recordings: {len(set(units))}; give as many or fewer")
    number = np.array(_stratified(rows, units, n_folds, seed))
    folds = []
    for fold in range(n_folds):
        test = number == fold
        validation = number == (fold + 1) % n_folds if n_folds > 2 else np.zeros(len(rows), dtype=bool)
        # All copies of a recording are in one fold.
        folds.append(Fold(f"{fold + 1:02d}", ~(test | validation), validation, test, np.zeros_like(test)))
    return folds


def _speaker_folds(rows: Sequence[dict[str, str]], n_folds: int | None, seed: int) -> list[Fold]:
    speakers = np.array([row["speaker"] for row in rows], dtype=object)
    names = sorted(set(speakers) - {""})
    if len(names) < 2:
        raise TrainingError(
            f"known speakers: {len(names)}, and a fold by speaker needs two or more: give a speaker for each "
            "recording to build-records, or cross-validate --by random"
        )
    if n_folds is None:
        groups = [[name] for name in names]
    elif n_folds > len(names):
        raise UsageError(f"--folds {n_folds}: there are {len(names)} speakers; give as many or fewer")
    else:
        groups = _balanced_groups(Counter(speakers), names, n_folds, seed)
    order = [name for group in groups for name in group]
    known = speakers != ""
    folds = []
    for number, group in enumerate(groups):
        test = np.isin(speakers, group)
        # A copy of what is tested, under another speaker's name, is on no side.
        leaked = _copies(rows, test)
        after = order.index(group[-1]) + 1
        left = set(speakers[known & ~(test | leaked)])
        others = [name for name in order[after:] + order[:after] if name in left]
        one = [others[seed % len(others)]] if len(others) > 1 else []
        validation = np.isin(speakers, one) & known & ~leaked
        copies = _copies(rows, validation) & known & ~(test | leaked)
        name = group[0] if n_folds is None else f"{number + 1:02d}"
        fold = Fold(name, known & ~(test | validation | leaked | copies), validation, test, copies)
        if not fold.rest.any():
            raise TrainingError(
                f"fold {name}: nothing is left to train on, as all other recordings are copies of those held out; "
                "give other speakers, or cross-validate --by random"
            )
        folds.append(fold)
    return folds


def _copies(rows: Sequence[dict[str, str]], side: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows that are not on a side but share audio with one that is."""
    audio = {row["sha256"] for row, chosen in zip(rows, side, strict=True) if chosen}
    return np.array([row["sha256"] in audio for row in rows]) & ~side


def _balanced_groups(sizes: Counter[str], names: Sequence[str], n_folds: int, seed: int) -> list[list[str]]:
    """The speakers in groups of about equal size: the largest first, each into the smallest group."""
    groups: list[list[str]] = [[] for _ in range(n_folds)]
    totals = [0] * n_folds
    for name in sorted(names, key=lambda name: (-sizes[name], shuffle_key(seed, name))):
        smallest = min(range(n_folds), key=lambda group: totals[group])
        groups[smallest].append(name)
        totals[smallest] += sizes[name]
    return groups


def _stratified(rows: Sequence[dict[str, str]], units: Sequence[str], n_folds: int, seed: int) -> list[int]:
    """Each row's fold: the units of each label are dealt out in turn, each label going on where the last stopped."""
    label_of = {unit: row["label"] for unit, row in zip(reversed(units), reversed(rows), strict=True)}
    dealt = sorted(label_of, key=lambda unit: (label_of[unit], shuffle_key(seed, unit)))
    fold_of = {unit: place % n_folds for place, unit in enumerate(dealt)}
    return [fold_of[unit] for unit in units]
