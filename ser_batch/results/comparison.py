"""Two cross-validation folders of the same recordings: is one better, and how sure is that?"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ser_batch.errors import SourceError
from ser_batch.files import differences
from ser_batch.results.folds import OutOfFold, read_predictions
from ser_batch.results.scores import Tallies, interval, recalls, resampled_sums, tally
from ser_batch.wording import counted

# What decides how hard the task was; seeds and recipes are what is compared.
_TASK = ("by", "folds", "normalise")
_SHOWN_SPEAKERS = 24
_EXACT_UNITS = 14
_DRAWS = 20_000


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


def sign_flip_p(parts: ArrayLike, seed: int = 0) -> float:
    """The two-sided p of a permutation test of pairs: is the sum of these differences 0 but for chance?

    If A and B were alike, each difference could as well have the other sign. p is the share of all ways to set the
    signs whose sum is at least as far from 0 as the sum that was found: exact for at most 14 differences (then it is
    never below 1 / 2^(n - 1)), else from 20,000 random ways and the one found.

    Args:
        parts: float ``(n,)``, one difference for each pair.
        seed: of the random ways.
    """
    found = np.asarray(parts, dtype=np.float64)
    least = abs(found.sum()) * (1 - 1e-9) - 1e-12
    if len(found) <= _EXACT_UNITS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(found))))
        return float(np.mean(np.abs(signs @ found) >= least))
    # Thousands of recordings have few different sizes: draw how many of each size turn.
    sizes, counts = np.unique(np.abs(found), return_counts=True)
    chance = np.random.default_rng(seed)
    far = 0
    for _ in range(_DRAWS // 500):
        turned = chance.binomial(counts, 0.5, size=(500, len(counts)))
        far += int((np.abs((counts - 2 * turned) @ sizes) >= least).sum())
    return (far + 1) / (_DRAWS + 1)


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


def comparison_lines(found: Comparison, name_a: str, name_b: str) -> list[str]:
    """A comparison as a table for a terminal, with what it means in the last line."""
    shown = found.speakers[:_SHOWN_SPEAKERS]
    width = max(len("speaker"), *(len(pair.name) for pair in shown), 0)
    lines = [
        f"A: {name_a}, {counted(found.seeds_a, 'seed')}",
        f"B: {name_b}, {counted(found.seeds_b, 'seed')}",
        f"{counted(found.recordings, 'recording')}; intervals and tests over {counted(found.units, found.over[:-1])}",
        f"{'':{width}}      A      B    B - A  95 % interval           p",
    ]
    for name, one in (("UAR", found.uar), ("WA", found.wa)):
        limits = f"{one.low:+.3f} to {one.high:+.3f}"
        lines.append(f"{name:{width}}  {one.a:.3f}  {one.b:.3f}  {one.b - one.a:+7.3f}  {limits:18}  {one.p:7.4f}")
    if shown:
        lines.append(f"{'speaker':{width}}  UAR A  UAR B    B - A   WA A   WA B    B - A  recordings")
    lines += [
        f"{pair.name:{width}}  {pair.uar_a:.3f}  {pair.uar_b:.3f}  {pair.uar_b - pair.uar_a:+7.3f}"
        f"  {pair.wa_a:.3f}  {pair.wa_b:.3f}  {pair.wa_b - pair.wa_a:+7.3f}  {pair.recordings:10d}"
        for pair in shown
    ]
    if len(found.speakers) > len(shown):
        lines.append(f"and {counted(len(found.speakers) - len(shown), 'more speaker')}")
    return [*lines, _meaning(found)]


def _meaning(found: Comparison) -> str:
    """One sentence; of UAR, because one score has to decide."""
    points = 100 * (found.uar.b - found.uar.a)
    low, high = 100 * found.uar.low, 100 * found.uar.high
    p = "p < .001" if found.uar.p < 0.001 else f"p = {found.uar.p:.3f}".replace("0.", ".")
    if found.uar.is_shown:
        better, sign = ("B", 1) if points > 0 else ("A", -1)
        limits = sorted((sign * low, sign * high))
        return (
            f"{better} is better by {abs(points):.1f} points UAR, 95 % interval {limits[0]:.1f} to {limits[1]:.1f}, "
            f"{p} over {counted(found.units, found.over[:-1])}"
        )
    few = "; fewer than 6 cannot show one" if found.units < 6 else ""
    return (
        f"no difference shown: B - A is {points:+.1f} points UAR, 95 % interval {low:+.1f} to {high:+.1f}, "
        f"{p} over {counted(found.units, found.over[:-1])}{few}"
    )
