"""Two cross-validation folders of the same recordings: is one better, and how sure is that?"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ser_batch.errors import SourceError
from ser_batch.evaluation.fold_predictions import OutOfFold, read_predictions
from ser_batch.evaluation.intervals import Tallies, interval, recalls, resampled_sums, sign_flip_p, tally
from ser_batch.storage.outputs import differences

# What decides how hard the task was; seeds and recipes are what is compared.
_TASK = ("by", "folds", "normalise")


@dataclass(frozen=True)
class Difference:
    """A score of A and of B.

    Attributes:
        a, b: the score, pooled out of fold, mean over seeds.
        low, high: 95 % interval of ``b - a``, by a bootstrap of pairs.
        p: two-sided, of a permutation test of pairs.
    """

    a: float
    b: float
    low: float
    high: float
    p: float

    @property
    def is_shown(self) -> bool:
        """Whether test and interval agree that there is a difference."""
        return self.p < 0.05 and not self.low <= 0 <= self.high


@dataclass(frozen=True)
class SpeakerPair:
    """One speaker in both: UAR and WA, mean over seeds."""

    name: str
    recordings: int
    uar_a: float
    uar_b: float
    wa_a: float
    wa_b: float


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        recordings: that both predict.
        seeds_a, seeds_b: how many trainings each is the mean of.
        over: what pairs are of: ``speakers``; or ``recordings``, where a speaker is unknown or there is but one.
        units: how many pairs.
        uar, wa: the differences.
        speakers: one for each; none over recordings.
        task_differences: what of the protocols makes the figures hard to compare.
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


def compare(folder_a: Path, folder_b: Path) -> Comparison:
    """Compare two cross-validation folders.

    Raises:
        SourceError: one is missing, unfinished or something else; or they are not of the same recordings with the
            same labels and speakers.
    """
    a, b = read_predictions(folder_a), read_predictions(folder_b)
    _refuse_other_recordings(a, b, folder_a, folder_b)
    one, other = _tallies(a), _tallies(b)
    return Comparison(
        len(set(a.recordings)),
        len(set(a.seeds.tolist())),
        len(set(b.seeds.tolist())),
        one.over,
        len(one.hits),
        _difference(one.hits, other.hits, one.support),
        # WA is the recall where all recordings are of one label.
        _difference(*(cells.sum(axis=1, keepdims=True) for cells in (one.hits, other.hits, one.support))),
        _speaker_pairs(one, other),
        tuple(differences(a.protocol, b.protocol, _TASK)),
    )


def _refuse_other_recordings(a: OutOfFold, b: OutOfFold, folder_a: Path, folder_b: Path) -> None:
    known_a, known_b = _truths(a), _truths(b)
    if odd := sorted(known_a.keys() ^ known_b.keys()):
        (file, start, end), where = odd[0], folder_a if odd[0] in known_a else folder_b
        raise SourceError(
            f"{folder_a} and {folder_b}: not of the same recordings, {len(odd)} are in only one of them "
            f"({file} from {start} to {end} only in {where}); compare cross-validations of the same records"
        )
    if odd := sorted(key for key, known in known_a.items() if known != known_b[key]):
        was, now = (" by ".join(filter(None, known[odd[0]])) for known in (known_a, known_b))
        raise SourceError(
            f"{folder_a} and {folder_b}: {len(odd)} of the recordings have another label or speaker "
            f"({odd[0][0]}: {was}, then {now}); compare cross-validations of the same records"
        )


def _truths(one: OutOfFold) -> dict[tuple[str, str, str], tuple[str, str]]:
    """The label and speaker of each recording."""
    known = zip((one.labels[label] for label in one.truth), one.speakers, strict=True)
    return dict(zip(one.recordings, known, strict=True))


def _tallies(one: OutOfFold) -> Tallies:
    """Of a mean seed, with recordings and labels in an order that does not depend on the folder."""
    order = sorted(range(len(one.recordings)), key=one.recordings.__getitem__)
    names = sorted({one.labels[label] for label in one.truth})
    truth = [names.index(one.labels[one.truth[at]]) for at in order]
    right = (one.predicted == one.truth)[order]
    speakers, recordings = [one.speakers[at] for at in order], [one.recordings[at] for at in order]
    whole = tally(truth, right, speakers, recordings, len(names))
    n_seeds = len(set(one.seeds.tolist()))
    return Tallies(whole.over, whole.names, whole.hits / n_seeds, whole.support / n_seeds)


def _difference(hits_a: NDArray[np.float64], hits_b: NDArray[np.float64], support: NDArray[np.float64]) -> Difference:
    """Of mean recall; all three are ``(units, labels)``, and every label occurs."""
    n_labels = support.shape[1]
    sums = resampled_sums(np.hstack([hits_a, hits_b, support]))
    drawn_a, drawn_b, drawn = (sums[:, at : at + n_labels] for at in (0, n_labels, 2 * n_labels))
    resampled = np.nanmean(recalls(drawn_b, drawn), axis=1) - np.nanmean(recalls(drawn_a, drawn), axis=1)
    mean_a, mean_b = (float(np.mean(hits.sum(axis=0) / support.sum(axis=0))) for hits in (hits_a, hits_b))
    # What each speaker adds to the difference. To swap A and B for one speaker is to turn the sign of its part.
    parts = ((hits_b - hits_a) / support.sum(axis=0)).mean(axis=1)
    return Difference(mean_a, mean_b, *interval(resampled), p=sign_flip_p(parts))


def _speaker_pairs(a: Tallies, b: Tallies) -> tuple[SpeakerPair, ...]:
    if a.over == "recordings":
        return ()
    uars = [np.nanmean(recalls(one.hits, one.support), axis=1) for one in (a, b)]
    totals = a.support.sum(axis=1)
    was = [one.hits.sum(axis=1) / totals for one in (a, b)]
    return tuple(
        SpeakerPair(name, round(total), *map(float, figures))
        for name, total, *figures in zip(a.names, totals, *uars, *was, strict=True)
    )
