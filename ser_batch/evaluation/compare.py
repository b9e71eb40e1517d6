"""Comparison of two cross-validations of the same recordings: difference, interval and paired test."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pandas import Categorical, DataFrame

from ser_batch.errors import SourceError
from ser_batch.evaluation.fold_predictions import RECORDING, OutOfFold, read_predictions
from ser_batch.evaluation.intervals import (
    SpeakerCounts,
    count_by_speaker,
    interval,
    recalls,
    resampled_sums,
    sign_flip_p,
)
from ser_batch.storage.outputs import differences

# Options that affect the difficulty of the task; seeds and recipes may differ.
_TASK = ("by", "folds", "normalise")


@dataclass(frozen=True)
class Difference:
    """A score of A and B, and their difference.

    Attributes:
        a, b: out-of-fold score, pooled over folds, mean over seeds.
        low, high: 95 % interval of ``b - a``, from a paired bootstrap.
        p: two-sided p-value of a paired permutation test.
    """

    a: float
    b: float
    low: float
    high: float
    p: float

    @property
    def is_significant(self) -> bool:
        """Whether p is below 0.05 and the interval excludes 0."""
        return self.p < 0.05 and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class SpeakerPair:
    """Scores of one speaker in both cross-validations: UAR and WA, mean over seeds."""

    name: str
    recordings: int
    uar_a: float
    uar_b: float
    wa_a: float
    wa_b: float


@dataclass(frozen=True)
class ModelComparison:
    """Result of a comparison of B with A.

    Attributes:
        recordings: number of recordings, the same in both.
        seeds_a, seeds_b: number of seeds that each score is the mean of.
        over: units of the pairs: ``speakers``; or ``recordings``, if a speaker is unknown or there is only one.
        units: number of pairs.
        uar, wa: the differences.
        speakers: one for each speaker; empty over recordings.
        task_differences: options that differ and make the scores hard to compare.
    """

    recordings: int
    seeds_a: int
    seeds_b: int
    over: Literal["speakers", "recordings"]
    units: int
    uar: Difference
    wa: Difference
    speakers: tuple[SpeakerPair, ...]
    task_differences: tuple[str, ...]


def compare(folder_a: Path, folder_b: Path) -> ModelComparison:
    """Compare two cross-validation folders.

    Raises:
        SourceError: one is missing, unfinished or not a cross-validation; or their recordings, labels or speakers
            differ.
    """
    a, b = read_predictions(folder_a), read_predictions(folder_b)
    n_recordings = _check_same_recordings(a.table, b.table, folder_a, folder_b)
    counts_a, counts_b = _mean_counts(a), _mean_counts(b)
    correct_a, correct_b, support = counts_a.correct, counts_b.correct, counts_a.support
    return ModelComparison(
        n_recordings,
        a.table.seed.nunique(),
        b.table.seed.nunique(),
        counts_a.over,
        len(support),
        _difference(correct_a, correct_b, support),
        # WA equals the recall if all recordings have one label.
        _difference(*(counts.sum(axis=1).to_frame() for counts in (correct_a, correct_b, support))),
        _speaker_pairs(counts_a, counts_b) if counts_a.over == "speakers" else (),
        tuple(differences(a.protocol, b.protocol, _TASK)),
    )


def _check_same_recordings(a: DataFrame, b: DataFrame, folder_a: Path, folder_b: Path) -> int:
    """Return the number of recordings; raise a SourceError if recordings, labels or speakers differ."""
    known_a, known_b = (one.drop_duplicates(RECORDING)[[*RECORDING, "label", "speaker"]] for one in (a, b))
    both = known_a.merge(known_b, "outer", RECORDING, suffixes=("_a", "_b"), indicator="which")
    both = both.astype({"label_a": str, "label_b": str}).sort_values(RECORDING)
    if len(odd := both[both.which != "both"]):
        first = odd.iloc[0]
        raise SourceError(
            f"{folder_a} and {folder_b}: different recordings, {len(odd)} are in only one of them "
            f"({first.file} from {first.start} to {first.end} only in "
            f"{folder_a if first.which == 'left_only' else folder_b}); compare cross-validations of the same records"
        )
    if len(odd := both[(both.label_a != both.label_b) | (both.speaker_a != both.speaker_b)]):
        first = odd.iloc[0]
        was, now = (" by ".join(filter(None, first[[f"label_{of}", f"speaker_{of}"]])) for of in "ab")
        raise SourceError(
            f"{folder_a} and {folder_b}: {len(odd)} of the recordings have different labels or speakers "
            f"({first.file}: {was}, and {now}); compare cross-validations of the same records"
        )
    return len(both)


def _mean_counts(predictions: OutOfFold) -> SpeakerCounts:
    """The mean counts over seeds; units and labels are sorted."""
    table = predictions.table
    labels = Categorical(table.label, sorted(table.label.unique()))
    recordings = table.groupby(RECORDING).ngroup()
    correct = table.label == table.emotion
    counts = count_by_speaker(labels.codes, correct, table.speaker, recordings, len(labels.categories))
    n_seeds = table.seed.nunique()
    return SpeakerCounts(counts.over, counts.correct / n_seeds, counts.support / n_seeds)


def _difference(correct_a: DataFrame, correct_b: DataFrame, support: DataFrame) -> Difference:
    """The difference of the mean recall; all arguments are ``(units, labels)``, and every label occurs."""
    sums = np.hsplit(resampled_sums(np.hstack([correct_a, correct_b, support])), 3)
    resampled_a, resampled_b = (np.nanmean(recalls(one, sums[2]), axis=1) for one in sums[:2])
    mean_a, mean_b = (float((one.sum() / support.sum()).mean()) for one in (correct_a, correct_b))
    # Each unit's share of the difference: swapping A and B for one unit changes the sign of its share.
    shares = ((correct_b - correct_a) / support.sum()).mean(axis=1)
    return Difference(mean_a, mean_b, *interval(resampled_b - resampled_a), p=sign_flip_p(shares))


def _speaker_pairs(a: SpeakerCounts, b: SpeakerCounts) -> tuple[SpeakerPair, ...]:
    totals = a.support.sum(axis=1)
    uars = [(one.correct / one.support).mean(axis=1) for one in (a, b)]
    was = [one.correct.sum(axis=1) / totals for one in (a, b)]
    columns = [totals.index, totals.round().astype(int), *uars, *was]
    return tuple(SpeakerPair(*pair) for pair in zip(*(column.tolist() for column in columns), strict=True))
