import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_batch.cli.app import main
from ser_batch.evaluation import fold_scores as folds
from ser_batch.evaluation.compare import compare
from ser_batch.evaluation.fold_predictions import FoldPrediction
from ser_batch.evaluation.intervals import count_by_speaker, interval_over_speakers, sign_flip_p
from ser_batch.reports.text import comparison_lines
from tests.folding import LABELS, PROTOCOL, certain, made_predictions, written


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take a second a folder and are not compared."""
    for name in ("plot_confusion", "plot_reliability"):
        monkeypatch.setattr(folds, name, lambda *arguments: None)


@pytest.mark.parametrize(
    ("parts", "p"),
    [
        ([1, 2, 3], 2 / 8),  # only all of one sign are as far from 0
        ([3, -1, 1], 6 / 8),  # ±3±1±1: all but ±(3 - 1 - 1)
        ([-1, -2, -3], 2 / 8),
        ([0, 0, 0], 1.0),
        ([1.2, 0.4, -0.4], 6 / 8),  # as far from 0, but for the rounding
        ([5], 1.0),
        ([1] * 10, 2 / 1024),
    ],
)
def test_sign_flips_by_hand(parts: list[float], p: float) -> None:
    assert sign_flip_p(parts) == p


def test_many_pairs_are_drawn_and_near_the_exact() -> None:
    parts = np.random.default_rng(5).normal(0.4, 1, 16)
    sums = np.array(list(itertools.product((-1, 1), repeat=16))) @ parts
    exact = np.mean(np.abs(sums) >= abs(parts.sum()) - 1e-12)
    assert sign_flip_p(parts) == pytest.approx(exact, abs=0.01)
    assert sign_flip_p(parts) == sign_flip_p(parts)
    assert sign_flip_p([1.0] * 100) == 1 / 20_001


def test_chance_is_called_a_difference_one_time_in_twenty() -> None:
    chance = np.random.default_rng(6)
    found = [sign_flip_p(chance.normal(size=10)) < 0.05 for _ in range(400)]
    assert 6 <= sum(found) <= 36


def test_figures_are_those_of_the_folders(tmp_path: Path) -> None:
    a = written(tmp_path / "a", made_predictions(seeds=(0, 1, 2)))
    b = written(tmp_path / "b", made_predictions(seeds=(3, 4), skill=2.5))
    found = compare(a, b)
    scores_a, scores_b = (json.loads((folder / "scores.json").read_text()) for folder in (a, b))
    assert (found.uar.a, found.uar.b) == pytest.approx((scores_a["uar"]["mean"], scores_b["uar"]["mean"]), abs=1e-6)
    assert (found.wa.a, found.wa.b) == pytest.approx((scores_a["wa"]["mean"], scores_b["wa"]["mean"]), abs=1e-6)
    assert (found.recordings, found.seeds_a, found.seeds_b, found.over, found.units) == (120, 3, 2, "speakers", 6)
    assert found.uar.low < found.uar.b - found.uar.a < found.uar.high
    for pair in found.speakers:
        assert pair.uar_a == pytest.approx(scores_a["speakers"][pair.name]["uar"], abs=1e-6)
        assert pair.wa_b == pytest.approx(scores_b["speakers"][pair.name]["wa"], abs=1e-6)
        assert pair.recordings == scores_b["speakers"][pair.name]["recordings"]


def test_speakers_by_hand(tmp_path: Path) -> None:
    # Two labels of three: A is always right but for one of each speaker, B is always right.
    truth, speakers = [0, 0, 1, 1] * 3, [who for who in "abc" for _ in range(4)]
    a = written(tmp_path / "a", certain([2, 0, 1, 1] * 3, truth, speakers))
    b = written(tmp_path / "b", certain(truth, truth, speakers))
    found = compare(a, b)
    assert (found.uar.a, found.uar.b, found.uar.low, found.uar.high) == pytest.approx((0.75, 1, 0.25, 0.25))
    assert found.uar.p == found.wa.p == 2 / 8
    assert comparison_lines(found, "a", "b")[-1] == (
        "no difference shown: B - A is +25.0 points UAR, 95 % interval +25.0 to +25.0, p = .250 over 3 speakers; "
        "fewer than 6 cannot show one"
    )


def test_a_speaker_is_weighted_by_its_share_of_the_pooled_score(tmp_path: Path) -> None:
    # Speaker a of 10 recordings gains 3, b and c of 2 lose and gain 1: sums of ±3±1±1 decide, not of ±3/10±1/2±1/2.
    speakers = ["a"] * 10 + ["b"] * 2 + ["c"] * 2
    a = written(tmp_path / "a", certain([1] * 10 + [0, 0, 1, 1], [0] * 14, speakers))
    b = written(tmp_path / "b", certain([0] * 3 + [1] * 7 + [0, 1, 0, 1], [0] * 14, speakers))
    found = compare(a, b)
    assert found.uar.b - found.uar.a == pytest.approx(3 / 14)
    assert found.uar.p == found.wa.p == 6 / 8


def test_pairs_take_out_what_speakers_have_in_common(tmp_path: Path) -> None:
    # Every speaker gains one recording of ten, and speakers differ by far more.
    n_right = np.arange(2, 10)
    truth, speakers = [0, 1] * 40, [f"{who}" for who in range(8) for _ in range(10)]
    known = [at < right for right in n_right for at in range(10)]
    more = [at < right + 1 for right in n_right for at in range(10)]
    a, b = (
        written(tmp_path / name, certain(np.where(right, truth, 2), truth, speakers))
        for name, right in (("a", known), ("b", more))
    )
    found = compare(a, b)
    alone = interval_over_speakers(count_by_speaker(truth, known, speakers, range(80), 3))
    assert found.wa.high - found.wa.low < 0.01 < 0.2 < alone.wa[1] - alone.wa[0]
    assert found.wa.p == 2 / 2**8
    assert found.uar.is_significant
    assert comparison_lines(found, "a", "b")[-1].startswith("B is better by 10.0 points UAR, 95 % interval ")
    assert comparison_lines(found, "a", "b")[-1].endswith(", p = .008 over 8 speakers")
    other = compare(b, a)
    assert comparison_lines(other, "b", "a")[-1].startswith("A is better by 10.0 points UAR, 95 % interval ")
    assert other.uar.b - other.uar.a == pytest.approx(-0.1)


def test_a_folder_is_no_better_than_itself(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", made_predictions())
    found = compare(folder, folder)
    assert (found.uar.low, found.uar.high, found.uar.p) == (0, 0, 1)
    assert comparison_lines(found, "a", "a")[-1].startswith("no difference shown: ")


@pytest.mark.parametrize("known", [True, False])
def test_neither_the_order_of_rows_nor_of_labels_matters(tmp_path: Path, known: bool) -> None:
    a, b = made_predictions(), made_predictions(seeds=(5,), skill=2)
    if not known:
        a, b = ([replace(one, speaker="") for one in predictions] for predictions in (a, b))
    turned = [replace(one, label=2 - one.label, probabilities=one.probabilities[::-1]) for one in reversed(b)]
    first = written(tmp_path / "a", a)
    plain = compare(first, written(tmp_path / "b", b))
    assert compare(first, written(tmp_path / "c", turned, labels=LABELS[::-1])) == plain


def test_unknown_speakers_are_reported(tmp_path: Path, capfd) -> None:
    truth = [0, 1, 2] * 20
    a = written(tmp_path / "a", certain([0] * 60, truth, [""] * 60))
    b = written(tmp_path / "b", certain(truth, truth, [""] * 60))
    assert main(["compare", str(a), str(b)]) == 0
    out = capfd.readouterr().out
    assert "60 recordings; intervals and tests over 60 recordings" in out
    assert not any(line.startswith("speaker") for line in out.splitlines())
    assert out.splitlines()[-1].endswith("p < .001 over 60 recordings")


def test_on_the_command_line(tmp_path: Path, capfd) -> None:
    a = written(tmp_path / "a", made_predictions())
    b = written(tmp_path / "b", made_predictions(skill=2.5))
    assert main(["compare", str(a), str(b)]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[:2] == [f"A: {a}, 2 seeds", f"B: {b}, 2 seeds"]
    assert [line.split()[0] for line in lines[4:13]] == ["UAR", "WA", "speaker", *(f"{who:02d}" for who in range(6))]
    assert lines[13].startswith("B is better by ")
    assert len(lines) == 14
    assert max(map(len, lines[2:13])) <= 80


def test_other_protocols_are_warned_of_in_one_line(tmp_path: Path, capfd) -> None:
    a = written(tmp_path / "a", made_predictions())
    b = written(tmp_path / "b", made_predictions(), PROTOCOL | {"by": "random", "folds": 10})
    assert main(["compare", str(a), str(b)]) == 0
    assert capfd.readouterr().err == (
        "warning: the cross-validations have different options; from A to B: "
        'by was "speaker", now "random"; folds was 6, now 10\n'
    )


def relabelled(predictions: list[FoldPrediction]) -> list[FoldPrediction]:
    return [replace(predictions[0], speaker="x"), *predictions[1:]]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (
            lambda: made_predictions(seeds=(0,), n=119),
            "1 are in only one of them (119.wav from 00:00:00.000000 to 00:00:02.500000 only in",
        ),
        (
            lambda: relabelled(made_predictions(seeds=(0,))),
            "1 of the recordings have different labels or speakers (000.wav",
        ),
    ],
)
def test_other_recordings_are_refused(tmp_path: Path, capfd, other, expected: str) -> None:
    a, b = written(tmp_path / "a", made_predictions(seeds=(0,))), written(tmp_path / "b", other())
    assert main(["compare", str(a), str(b)]) == 1
    captured = capfd.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_what_is_no_cross_validation_is_refused(tmp_path: Path, capfd) -> None:
    a = written(tmp_path / "a", made_predictions())
    for other, expected in ((tmp_path / "absent", "no such folder"), (tmp_path, "not a finished cross-validation")):
        assert main(["compare", str(a), str(other)]) == 1
        error = capfd.readouterr().err
        assert expected in error
        assert str(other) in error
        assert error.count("\n") == 1
