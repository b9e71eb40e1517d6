"""Folds of a cross-validation: examples that are held out are never trained on."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest

from ser_batch.corpus.folds import Fold, FoldRule, make_folds, parse_fold_rule
from ser_batch.errors import TrainingError, UsageError

LABELS = ("anger", "fear", "joy")
Rows = list[dict[str, str]]


def rows_of(
    n: int = 120, n_speakers: int = 6, copies: int = 0, windows: int = 1, unknown: int = 0, seed: int = 0
) -> Rows:
    """Manifest rows of uneven speakers and labels: some files are copies of others, some have several windows."""
    chance = np.random.default_rng(seed)
    weights = np.arange(1, n_speakers + 1) / np.arange(1, n_speakers + 1).sum()
    rows = []
    for number in range(n):
        speaker = f"s{chance.choice(n_speakers, p=weights)}" if number >= n_speakers else f"s{number}"
        label = LABELS[int(chance.choice(3, p=[0.6, 0.3, 0.1]))]
        sha256 = f"sha{number}" if number < n - copies else f"sha{chance.integers(n - copies)}"
        if n - copies - unknown <= number < n - copies:
            speaker = ""
        row = {"file": f"{number}.wav", "speaker": speaker, "label": label, "sha256": sha256}
        rows += [row] * int(chance.integers(1, windows + 1))
    return rows


def speakers_of(rows: Rows, side: np.ndarray) -> set[str]:
    return {row["speaker"] for row, chosen in zip(rows, side, strict=True) if chosen}


def audio_of(rows: Rows, side: np.ndarray) -> set[str]:
    return {row["sha256"] for row, chosen in zip(rows, side, strict=True) if chosen}


def assert_sound(folds: Sequence[Fold], rows: Rows) -> None:
    """Sides are disjoint, in rows as well as in audio; what has a speaker is held out once."""
    for fold in folds:
        sides = (fold.train, fold.test)
        assert all(side.dtype == bool and len(side) == len(rows) for side in sides)
        assert np.sum(sides, axis=0).max() <= 1
        assert fold.train.any()
        assert fold.test.any()
        assert not audio_of(rows, fold.test) & audio_of(rows, fold.train)
    held_out = np.sum([fold.test for fold in folds], axis=0)
    known = np.array([row["speaker"] != "" for row in rows])
    assert (held_out[known] == 1).all()


CORPORA = {
    "plain": rows_of(),
    "windows": rows_of(windows=4),
    "copies": rows_of(copies=30, windows=2),
    "unknown speakers": rows_of(unknown=20),
    "all of it": rows_of(copies=30, windows=3, unknown=20, seed=1),
}


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("n_folds", [None, 2, 3, 5, 6])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_by_speaker_no_speaker_is_on_two_sides(corpus: str, n_folds: int | None, seed: int) -> None:
    rows = CORPORA[corpus]
    folds = make_folds(rows, "speaker", n_folds, seed)
    assert len(folds) == (n_folds or 6)
    assert_sound(folds, rows)
    unknown = np.array([row["speaker"] == "" for row in rows])
    for fold in folds:
        assert not speakers_of(rows, fold.train) & speakers_of(rows, fold.test)
        assert not (unknown & (fold.train | fold.test)).any()


def test_leave_one_out_names_folds_for_who_is_held_out() -> None:
    rows = CORPORA["plain"]
    folds = make_folds(rows, "speaker", None, 0)
    assert [fold.name for fold in folds] == [f"s{number}" for number in range(6)]
    for fold in folds:
        assert speakers_of(rows, fold.test) == {fold.name}
        assert len(speakers_of(rows, fold.train)) == 5
    assert [fold.name for fold in make_folds(rows, "speaker", 3, 0)] == ["01", "02", "03"]


def test_without_copies_everyone_else_is_trained_on() -> None:
    for fold in make_folds(CORPORA["windows"], "speaker", None, 0):
        assert (fold.train ^ fold.test).all()


def test_a_copy_of_test_audio_under_another_name_is_on_no_side() -> None:
    rows = [
        {"file": f"{number}.wav", "speaker": speaker, "label": "anger", "sha256": sha256}
        for number, (speaker, sha256) in enumerate(
            [("a", "1"), ("a", "2"), ("b", "2"), ("b", "3"), ("c", "4"), ("d", "5")]
        )
    ]
    fold = make_folds(rows, "speaker", None, 0)[0]
    assert fold.test.tolist() == [True, True, False, False, False, False]
    assert fold.train.tolist() == [False, False, False, True, True, True]


def test_speakers_who_are_copies_of_each_other_are_refused() -> None:
    rows = [{"file": f"{n}.wav", "speaker": "ab"[n % 2], "label": "joy", "sha256": str(n // 2)} for n in range(8)]
    with pytest.raises(TrainingError, match=r"^fold a: no training recordings.*--by random"):
        make_folds(rows, "speaker", None, 0)


@pytest.mark.parametrize("n_folds", [2, 3, 4])
def test_groups_of_speakers_are_about_equally_large(n_folds: int) -> None:
    rows = rows_of(n=600, n_speakers=12)
    largest = Counter(row["speaker"] for row in rows).most_common(1)[0][1]
    sizes = [int(fold.test.sum()) for fold in make_folds(rows, "speaker", n_folds, 0)]
    assert sum(sizes) == len(rows)
    assert max(sizes) - min(sizes) <= largest / 2


@pytest.mark.parametrize("corpus", CORPORA)
@pytest.mark.parametrize("n_folds", [None, 2, 3, 7])
def test_at_random_no_audio_is_on_two_sides(corpus: str, n_folds: int | None) -> None:
    rows = CORPORA[corpus]
    folds = make_folds(rows, "random", n_folds, 3)
    assert len(folds) == (n_folds or 10)
    assert_sound(folds, rows)
    assert (np.sum([fold.test for fold in folds], axis=0) == 1).all()
    for fold in folds:
        assert (fold.train ^ fold.test).all()


@pytest.mark.parametrize("n_folds", [2, 5, 10])
def test_at_random_every_label_is_divided_evenly(n_folds: int) -> None:
    rows = rows_of(n=400)
    counts = Counter(row["label"] for row in rows)
    folds = make_folds(rows, "random", n_folds, 0)
    for label, count in counts.items():
        of_label = np.array([row["label"] == label for row in rows])
        for fold in folds:
            assert int((fold.test & of_label).sum()) in (count // n_folds, -(-count // n_folds))
    sizes = [int(fold.test.sum()) for fold in folds]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("by", ["speaker", "random"])
def test_a_seed_is_one_division(by: FoldRule) -> None:
    rows = CORPORA["all of it"]

    def tested(seed: int, rows: Rows = rows) -> list[list[str]]:
        folds = make_folds(rows, by, 3, seed)
        return [sorted(row["file"] for row, held in zip(rows, fold.test, strict=True) if held) for fold in folds]

    assert tested(0) == tested(0)
    if by == "random":
        assert tested(0) != tested(1)
    else:
        assert tested(0, rows[::-1]) == tested(0)


@pytest.mark.parametrize("speakers", [[""], ["a"], ["a", ""]])
def test_fewer_than_two_known_speakers_are_refused(speakers: list[str]) -> None:
    rows = [
        {"file": f"{n}.wav", "speaker": speakers[n % len(speakers)], "label": "joy", "sha256": str(n)} for n in range(8)
    ]
    known = len(set(speakers) - {""})
    with pytest.raises(TrainingError, match=rf"^known speakers: {known}, and .*--by random"):
        make_folds(rows, "speaker", None, 0)


def test_more_folds_than_there_is_to_divide_are_refused() -> None:
    with pytest.raises(UsageError, match="--folds 7: there are 6 speakers"):
        make_folds(CORPORA["plain"], "speaker", 7, 0)
    few = rows_of(n=8, n_speakers=2, windows=5)
    with pytest.raises(UsageError, match=r"^--folds 10: different recordings: 8; give as many or fewer"):
        make_folds(few, "random", None, 0)


def test_rules_have_names() -> None:
    assert parse_fold_rule("speaker") == "speaker"
    assert parse_fold_rule("random") == "random"
    with pytest.raises(UsageError, match="--by session: choose one of speaker, random"):
        parse_fold_rule("session")
