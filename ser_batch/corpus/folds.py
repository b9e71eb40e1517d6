"""Cross-validation folds: training and test examples of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut

from ser_batch.corpus.splits import shuffle_key
from ser_batch.errors import TrainingError, UsageError

FoldRule = Literal["speaker", "random"]


def parse_fold_rule(text: str) -> FoldRule:
    """Parse the name of a rule.

    Raises:
        UsageError: there is no such rule.
    """
    for rule in get_args(FoldRule):
        if text == rule:
            return text  # type: ignore[return-value]
    raise UsageError(f"--by {text}: choose one of {', '.join(get_args(FoldRule))}")


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: bools for every row of the manifest; a row is on at most one side.

    Attributes:
        name: the held-out speaker, or a number if several are held out.
        train: rows to train on; none has audio of ``test``.
        test: rows that are held out.
    """

    name: str
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]


def make_folds(rows: Sequence[dict[str, str]], by: FoldRule, n_folds: int | None, seed: int) -> list[Fold]:
    """Divide all examples of a record folder into folds; their splits are ignored.

    ``speaker``: leave one speaker out, or with ``n_folds`` groups of speakers with similar numbers of examples.
    ``random``: folds are stratified by label. Examples with the same audio (parts, windows, copies of one file) are
    never on both sides. By speaker, an example without a speaker is on no side.

    Args:
        rows: all rows of the manifest, in order.
        by: the rule.
        n_folds: number of folds; None: one for each speaker, or ten random ones.
        seed: determines the random folds.

    Raises:
        TrainingError: there are fewer than two speakers.
        UsageError: there are fewer speakers or recordings than folds.
    """
    if by == "speaker":
        return _speaker_folds(rows, n_folds)
    n_folds = n_folds or 10
    units = [row["sha256"] for row in rows]
    if len(set(units)) < n_folds:
        raise UsageError(f"--folds {n_folds}: different recordings: {len(set(units))}; give as many or fewer")
    number = np.array(_stratified(rows, units, n_folds, seed))
    # All copies of a recording are in one fold.
    return [Fold(f"{fold + 1:02d}", number != fold, number == fold) for fold in range(n_folds)]


def _speaker_folds(rows: Sequence[dict[str, str]], n_folds: int | None) -> list[Fold]:
    speakers = np.array([row["speaker"] for row in rows], dtype=object)
    names = sorted(set(speakers) - {""})
    if len(names) < 2:
        raise TrainingError(
            f"known speakers: {len(names)}, and a fold by speaker needs two or more: give a speaker for each "
            "recording to build-records, or cross-validate --by random"
        )
    if n_folds is not None and n_folds > len(names):
        raise UsageError(f"--folds {n_folds}: there are {len(names)} speakers; give as many or fewer")
    splitter = LeaveOneGroupOut() if n_folds is None else GroupKFold(n_folds)
    labelled = speakers[speakers != ""]
    groups = [sorted(set(labelled[held_out])) for _, held_out in splitter.split(labelled, groups=labelled)]
    folds = []
    for number, group in enumerate(groups):
        test = np.isin(speakers, group)
        # Copies of test audio under another speaker's name are on no side.
        train = (speakers != "") & ~(test | _copies(rows, test))
        name = group[0] if n_folds is None else f"{number + 1:02d}"
        if not train.any():
            raise TrainingError(
                f"fold {name}: no training recordings, as all others are copies of those held out; "
                "give other speakers, or cross-validate --by random"
            )
        folds.append(Fold(name, train, test))
    return folds


def _copies(rows: Sequence[dict[str, str]], side: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The rows that are not on a side but share audio with one that is."""
    audio = {row["sha256"] for row, chosen in zip(rows, side, strict=True) if chosen}
    return np.array([row["sha256"] in audio for row in rows]) & ~side


def _stratified(rows: Sequence[dict[str, str]], units: Sequence[str], n_folds: int, seed: int) -> list[int]:
    """Each row's fold: units are sorted by label, shuffled within each label, and assigned to the folds in turn.

    Fold sizes differ by one unit at most. scikit-learn's StratifiedKFold raises an error if every label has fewer
    units than there are folds.
    """
    label_of = {unit: row["label"] for unit, row in zip(reversed(units), reversed(rows), strict=True)}
    ordered = sorted(label_of, key=lambda unit: (label_of[unit], shuffle_key(seed, unit)))
    fold_of = {unit: place % n_folds for place, unit in enumerate(ordered)}
    return [fold_of[unit] for unit in units]
