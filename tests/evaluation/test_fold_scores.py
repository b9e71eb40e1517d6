import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from sklearn import metrics

from ser_batch.errors import SourceError
from ser_batch.evaluation import fold_scores as folds
from ser_batch.evaluation.fold_predictions import FoldPrediction, read_predictions
from ser_batch.evaluation.fold_scores import FOLD_FILES, write_folds
from ser_batch.models.calibration import apply_temperature, fit_temperature
from ser_batch.reports.text import cross_validation_lines
from tests.folding import LABELS, PROTOCOL, certain, made_predictions, written


def scores_of(folder: Path) -> dict:
    return json.loads((folder / "scores.json").read_text(encoding="utf-8"))


def test_the_folder_holds_what_it_should(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    assert {path.name for path in folder.iterdir()} == FOLD_FILES
    assert scores_of(folder)["protocol"] == PROTOCOL
    for name in ("confusion_matrix.png", "reliability.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")


def test_predictions_are_written_exactly(tmp_path: Path) -> None:
    one = FoldPrediction('a "b", c\r\n.wav', 1.5, 3661.0, "03", 2, "fold 1", 4, (0.2, 0.7, 0.1), 0.25)
    folder = written(tmp_path / "cv", [one])
    assert (folder / "predictions.csv").read_bytes().decode() == (
        "file,start,end,speaker,label,fold,seed,emotion,confidence,novelty,p_anger,p_fear,p_joy\n"
        '"a ""b"", c\r\n.wav",00:00:01.500000,01:01:01.000000,03,joy,fold 1,4,fear,0.700000,'
        "0.250000,0.200000,0.700000,0.100000\n"
    )
    (row,) = read_predictions(folder).table[["file", "start", "end", "speaker"]].to_numpy().tolist()
    assert row == [one.file, "00:00:01.500000", "01:01:01.000000", "03"]


def test_figures_are_scikit_learns_on_the_predictions_that_were_written(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", made_predictions(seeds=(0, 1, 2)))
    rows = pandas.read_csv(folder / "predictions.csv", dtype={"speaker": str, "fold": str})
    scores = scores_of(folder)
    table = pandas.read_csv(folder / "scores.csv", dtype={"name": str})
    uars = [metrics.balanced_accuracy_score(part.label, part.emotion) for _, part in rows.groupby("seed")]
    was = [metrics.accuracy_score(part.label, part.emotion) for _, part in rows.groupby("seed")]
    for name, values in (("uar", uars), ("wa", was)):
        assert list(scores[name]["per_seed"].values()) == pytest.approx(values, abs=1e-6)
        assert scores[name]["mean"] == pytest.approx(np.mean(values), abs=1e-6)
        assert scores[name]["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
        assert scores[name]["interval"][0] < scores[name]["mean"] < scores[name]["interval"][1]
        pooled = table[table.scope == "pooled"].set_index("statistic")[name]
        assert pooled["seed"].tolist() == pytest.approx(values, abs=1e-6)
        assert (pooled["mean"], pooled["sd"]) == pytest.approx((np.mean(values), np.std(values, ddof=1)), abs=1e-6)
    for scope, column in (("speaker", "speaker"), ("fold", "fold")):
        for (name, seed), part in rows.groupby([column, "seed"]):
            row = table[(table.scope == scope) & (table.name == name) & (table.seed == seed)].iloc[0]
            assert row.uar == pytest.approx(metrics.balanced_accuracy_score(part.label, part.emotion), abs=1e-6)
            assert row.recordings == len(part)
    for label in LABELS:
        recalls = [metrics.recall_score(p.label == label, p.emotion == label) for _, p in rows.groupby("seed")]
        assert scores["classes"][label]["recall"] == pytest.approx(np.mean(recalls), abs=1e-6)
        low, high = scores["classes"][label]["recall_interval"]
        assert low < np.mean(recalls) < high
    confusion = pandas.read_csv(folder / "confusion_matrix.csv", index_col="true")
    assert (confusion.to_numpy() == metrics.confusion_matrix(rows.label, rows.emotion, labels=LABELS)).all()


def test_calibration_error_before_and_after(tmp_path: Path) -> None:
    scores = scores_of(written(tmp_path / "cv", made_predictions(seeds=range(5), n=600)))["ece"]
    assert scores["bins"] == 15
    assert scores["pooled"]["after"] < 0.05 < scores["pooled"]["before"]
    assert scores["mean_of_seeds"]["after"] >= scores["pooled"]["after"]


def test_a_fold_is_calibrated_by_the_others_alone(tmp_path: Path) -> None:
    """Whatever the truth of a fold's recordings, its temperature is the same."""
    before = made_predictions(seeds=(0,))
    changed = [replace(one, label=(one.label + 1) % 3) if one.fold == "02" else one for one in before]
    of_folds = [one.fold for one in before]
    found, after = (
        dict(zip(of_folds, folds.cross_fitted_temperatures(some), strict=True)) for some in (before, changed)
    )
    assert found["02"] == after["02"]
    assert found["03"] != after["03"]
    for fold in ("02", "03"):
        others = [one for one in before if one.fold != fold]
        expected = fit_temperature(
            [one.probabilities for one in others], [one.label for one in others], [one.speaker for one in others]
        )
        assert found[fold] == pytest.approx(expected)
    assert found["02"] != found["03"]


def test_a_fold_is_scored_over_the_labels_it_has(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", certain([0, 1, 2, 0, 0, 1], [0, 1, 2, 0, 1, 1], list("aaabbb")))
    table = pandas.read_csv(folder / "scores.csv").set_index(["scope", "name"]).sort_index()
    assert table.loc["fold", "b"].uar.item() == pytest.approx((1 + 1 / 2) / 2)
    assert table.loc["fold", "a"].uar.item() == 1.0
    assert scores_of(folder)["uar"]["mean"] == pytest.approx((1 + 2 / 3 + 1) / 3, abs=1e-6)
    assert (table.loc["fold", "a"].labels.item(), table.loc["fold", "b"].labels.item()) == (3, 2)
    assert {name: one["labels_scored"] for name, one in scores_of(folder)["speakers"].items()} == {"a": 3, "b": 2}
    assert scores_of(folder)["labels_scored"] == 3
    last = cross_validation_lines(folder)[-1]
    assert last == "worst speaker b: UAR 0.750 over 2 of 3 labels; best speaker a: UAR 1.000"


def test_a_score_over_fewer_labels_than_there_are_is_marked(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", certain([0, 1, 0, 1], [0, 1, 0, 1], list("aabb")))
    lines = cross_validation_lines(folder)
    assert lines[2].startswith("UAR ")
    assert lines[2].endswith("1.000 to 1.000  over 2 of 3 labels")
    assert not any("over 2 of 3" in line for line in lines[3:-1])


@pytest.mark.parametrize(("predicted", "uar"), [([0, 1, 2] * 4, 1.0), ([1] * 12, 1 / 3), ([1, 2, 0] * 4, 0.0)])
def test_right_constant_and_wrong(tmp_path: Path, predicted: list[int], uar: float) -> None:
    folder = written(tmp_path / "cv", certain(predicted, [0, 1, 2] * 4, list("aaabbbcccddd")))
    assert scores_of(folder)["uar"] == {
        "per_seed": {"0": pytest.approx(uar, abs=1e-6)},
        "mean": pytest.approx(uar, abs=1e-6),
        "sd": None,
        "interval": [pytest.approx(uar, abs=1e-6)] * 2,
    }


@pytest.mark.parametrize("speakers", [["anna"] * 6, [""] * 6])
def test_without_several_speakers_intervals_are_over_recordings(tmp_path: Path, speakers: list[str]) -> None:
    folder = written(tmp_path / "cv", certain([0, 1, 2, 0, 1, 1], [0, 1, 2, 0, 1, 2], speakers))
    scores = scores_of(folder)
    assert scores["interval"] == {"level": 0.95, "over": "recordings", "units": 6}
    assert list(scores["speakers"]) == [name for name in ["anna"] if name in speakers]
    assert "over 6 recordings" in cross_validation_lines(folder)[1]
    assert not any("worst speaker" in line for line in cross_validation_lines(folder))


def test_one_recording_is_enough(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", certain([1], [1], ["anna"]))
    assert scores_of(folder)["uar"]["interval"] == [1.0, 1.0]
    assert scores_of(folder)["classes"]["anger"]["recall_interval"] is None
    assert cross_validation_lines(folder)[0] == "leave one speaker out: 1 recording, 1 seed"


def test_what_a_terminal_shows(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    scores, lines = scores_of(folder), cross_validation_lines(folder)
    assert lines[0] == "leave one speaker out: 120 recordings, 2 seeds"
    assert lines[1].endswith("95 % interval over 6 speakers")
    low, high = scores["uar"]["interval"]
    shown = f"UAR   {scores['uar']['mean']:.3f}   {scores['uar']['sd']:.3f}  {low:.3f} to {high:.3f}"
    assert lines[2] == shown
    worst = min(scores["speakers"], key=lambda name: scores["speakers"][name]["uar"])
    assert lines[-1].startswith(f"worst speaker {worst}: UAR {scores['speakers'][worst]['uar']:.3f}; best speaker ")
    assert [line.split()[0] for line in lines[7:-1]] == list(LABELS)
    assert max(map(len, lines)) <= 80


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, made_predictions()) for name in ("one", "other"))
    for name in FOLD_FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


@pytest.mark.parametrize("spoilt", [made_predictions()[:-1], [*made_predictions(), made_predictions()[0]]])
def test_a_seed_that_lacks_or_repeats_a_recording_is_refused(tmp_path: Path, spoilt: list[FoldPrediction]) -> None:
    with pytest.raises(ValueError, match="not one row for each recording and seed"):
        write_folds(tmp_path, spoilt, LABELS, "", {})
    assert not list(tmp_path.iterdir())


def test_the_scores_come_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    for name in ("plot_reliability", "plot_confusion", "write_table"):
        with monkeypatch.context() as broken:
            broken.setattr(folds, name, fail)
            with pytest.raises(OSError, match="disk full"):
                written(tmp_path / name, made_predictions())
        assert not (tmp_path / name / "scores.json").exists()
        with pytest.raises(SourceError, match="not a finished cross-validation"):
            read_predictions(tmp_path / name)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    predictions = made_predictions()
    found = read_predictions(written(tmp_path / "cv", predictions))
    assert (found.labels, found.protocol) == (LABELS, PROTOCOL)
    table = found.table
    assert table.label.tolist() == [LABELS[one.label] for one in predictions]
    assert table.seed.tolist() == [one.seed for one in predictions]
    assert table.speaker.tolist() == [one.speaker for one in predictions]
    assert table.fold.tolist() == [one.fold for one in predictions]
    probabilities = table[[f"p_{label}" for label in LABELS]].to_numpy()
    temperatures = folds.cross_fitted_temperatures(predictions)
    expected = [
        apply_temperature([one.probabilities], at)[0] for one, at in zip(predictions, temperatures, strict=True)
    ]
    assert probabilities == pytest.approx(np.array(expected), abs=1e-6)
    assert table.emotion.tolist() == [LABELS[best] for best in probabilities.argmax(axis=1)]


@pytest.mark.parametrize("name", ["nan.wav", "NA", "a\rb.wav", "1", " a ", '"', "-"])
def test_any_name_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    predictions = [replace(one, file=name, speaker="NA", fold="007") for one in certain([1], [1], ["anna"])]
    (row,) = read_predictions(written(tmp_path / "cv", predictions)).table.to_dict("records")
    assert (row["file"], row["speaker"], row["fold"]) == (name, "NA", "007")


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda text: text[: len(text) // 2], "damaged"),
        (lambda text: text.replace("p_joy", "p_bliss"), "other columns"),
        (lambda text: text.replace(",joy,", ",bliss,"), "bliss"),
        (lambda text: "".join(text.splitlines(keepends=True)[:-1]), "not one row for each recording and seed"),
        (lambda text: "", "damaged"),
    ],
)
def test_damaged_predictions_are_named(tmp_path: Path, spoil, expected: str) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    path = folder / "predictions.csv"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(SourceError, match=expected) as error:
        read_predictions(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["", "[]", '{"uar": 1, "classes": {}}'])
def test_a_foreign_scores_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "scores.json").write_text(content)
    for read in (read_predictions, cross_validation_lines):
        with pytest.raises(SourceError, match=r"scores\.json"):
            read(tmp_path)
