import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_batch import api
from ser_batch.audio.frontends import FrontEnd
from ser_batch.cli.app import main
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import recordings as recordings_of
from ser_batch.inference.embeddings import EmbeddingOptions
from ser_batch.inference.examples import LabelledPrediction, predict_examples
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import (
    Adaptation,
    Bundle,
    BundleArrays,
    BundleContent,
    Calibration,
    save_bundle,
    shipped_bundle,
)
from ser_batch.models.calibration import apply_temperature
from ser_batch.models.networks.families import build_network, encoder_of, head_of
from ser_batch.models.networks.functionals import functional_extractor
from ser_batch.models.normalisation import Scale
from ser_batch.models.novelty import Novelty
from ser_batch.records.build import build_records
from ser_batch.records.folder import RecordFolder
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.reader import Selection, split_selection
from ser_batch.runtime.local import LocalEngine
from ser_batch.training.recipes import Recipe
from tests.frontends import KEPT, WINDOWED
from tests.predicting import classified, results_of
from tests.recipes import PLAIN


def build(source: Path, out: Path, front_end: FrontEnd | None = None) -> RecordFolder:
    """Records in one split, by default with the shipped model's front end."""
    options = BuildOptions(front_end or shipped_bundle().front_end, SplitPlan("none"))
    plan = plan_build(label_recordings(list_source(str(source))), options)
    with LocalEngine(2) as engine:
        return build_records(plan, out, engine).records


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    return build(emodb_sample, tmp_path_factory.mktemp("evaluation") / "records")


def evaluate(records: RecordFolder, out: Path, *options: str) -> int:
    bundle = shipped_bundle().path
    return main(["evaluate", str(bundle), str(records.path), "-o", str(out), "--split", "train", *options])


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_evaluation_folder_is_whole_and_agrees_with_itself(records: RecordFolder, tmp_path: Path, capfd) -> None:
    assert evaluate(records, tmp_path / "eval") == 0
    names = {path.name for path in (tmp_path / "eval").iterdir()}
    assert names == {
        ".lock",
        "predictions.csv",
        "report.csv",
        "scores.json",
        "confusion_matrix.csv",
        "confusion_matrix.png",
    }
    rows = read(tmp_path / "eval" / "predictions.csv")
    correct = sum(row["label"] == row["emotion"] for row in rows)
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert len(rows) == scores["recordings"] == 14
    assert scores["wa"] == pytest.approx(correct / 14, abs=1e-6)
    assert scores["uar"] == pytest.approx(sum(float(r["recall"]) for r in read(tmp_path / "eval" / "report.csv")) / 7)
    matrix = read(tmp_path / "eval" / "confusion_matrix.csv")
    assert sum(int(row[row["true"]]) for row in matrix) == correct
    assert (tmp_path / "eval" / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    output = capfd.readouterr().out
    assert f"UAR {scores['uar']:.3f}" in output
    assert evaluate(records, tmp_path / "eval") == 0
    again = capfd.readouterr()
    assert again.out == output
    assert "already finished" in again.err


def test_stderr_has_one_line_beside_the_report(records: RecordFolder, tmp_path: Path) -> None:
    """In a process of its own: what native libraries print, they print once."""
    arguments = [str(shipped_bundle().path), str(records.path), "-o", str(tmp_path / "eval"), "--split", "train"]
    command = [sys.executable, "-m", "ser_batch", "evaluate", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, f"{tmp_path / 'eval'}: written\n")


def test_evaluate_and_infer_agree(records: RecordFolder, tmp_path: Path, emodb_sample: Path) -> None:
    evaluate(records, tmp_path / "eval")
    evaluated = {row["file"]: row for row in read(tmp_path / "eval" / "predictions.csv")}
    bundle = shipped_bundle()
    recordings = list(recordings_of(list_source(str(emodb_sample)).recordings))
    with LocalEngine(2) as engine:
        results = results_of(recordings, engine, EmbeddingOptions.of(bundle))
    for one in classified(recordings, results):
        probabilities = [float(evaluated[one.file][f"p_{label}"]) for label in bundle.labels]
        assert probabilities == pytest.approx(one.probabilities, abs=1e-6)


def test_another_front_end_is_refused(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    other = build(emodb_sample, tmp_path / "other", WINDOWED)
    assert evaluate(other, tmp_path / "eval") == 1
    output = capfd.readouterr().err
    assert f"made with another front end (custom, {WINDOWED.fingerprint[:12]})" in output
    assert "build the records again with the model's (--front-end speech)" in output
    assert not (tmp_path / "eval").exists()


def test_recordings_with_a_label_unknown_to_the_model_are_not_scored(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    for label, name in (("anger", "03a01Wa.wav"), ("awe", "14a05Na.wav"), ("fear", "12a02Ac.wav")):
        (tmp_path / "in" / label).mkdir(parents=True)
        shutil.copy(emodb_sample / name, tmp_path / "in" / label / f"{label}.wav")
    records = build(tmp_path / "in", tmp_path / "records")
    assert evaluate(records, tmp_path / "eval") == 0
    output = capfd.readouterr().err
    assert "warning: not scored: recordings with a label that the model does not have: awe" in output
    assert {row["label"] for row in read(tmp_path / "eval" / "predictions.csv")} == {"anger", "fear"}
    assert json.loads((tmp_path / "eval" / "scores.json").read_text())["recordings"] == 2


def test_records_without_a_label_of_the_model_are_refused(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    for label in ("calm", "awe"):
        (tmp_path / "in" / label).mkdir(parents=True)
        shutil.copy(emodb_sample / "03a01Wa.wav", tmp_path / "in" / label / f"{label}.wav")
    records = build(tmp_path / "in", tmp_path / "records")
    assert evaluate(records, tmp_path / "eval") == 1
    assert "has no label of the model: it has awe, calm, and the model has anger," in capfd.readouterr().err
    assert not (tmp_path / "eval").exists()


def test_an_empty_split_and_another_evaluation_are_refused(records: RecordFolder, tmp_path: Path, capfd) -> None:
    assert evaluate(records, tmp_path / "other", "--split", "test") == 1
    assert "no examples in the split 'test'; it has train" in capfd.readouterr().err
    assert not (tmp_path / "other").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "poem.txt").write_text("x")
    assert evaluate(records, tmp_path / "mine") == 1
    assert "poem.txt" in capfd.readouterr().err


def test_a_score_over_fewer_labels_than_the_model_has_is_marked(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    for name in ("03a01Wa.wav", "03a01Fa.wav", "12a02Ac.wav"):
        (tmp_path / "in").mkdir(exist_ok=True)
        shutil.copy(emodb_sample / name, tmp_path / "in")
    assert evaluate(build(tmp_path / "in", tmp_path / "records"), tmp_path / "eval") == 0
    line = next(line for line in capfd.readouterr().out.splitlines() if line.startswith("UAR"))
    assert " over 3 of 7 labels (none of boredom, disgust, neutral, sadness in this split)   WA " in line
    scores = json.loads((tmp_path / "eval" / "scores.json").read_text())
    assert scores["labels_scored"] == 3
    assert scores["labels_absent"] == ["boredom", "disgust", "neutral", "sadness"]
    assert main(["info", str(tmp_path / "eval")]) == 0
    assert f"UAR {scores['uar']:.3f} over 3 of 7 labels, WA " in capfd.readouterr().out


def test_a_recording_that_is_in_the_records_twice_is_refused(
    tmp_path: Path, emodb_sample: Path, capfd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.records.build._remove_repeats", lambda *_: None)  # as folders were built before
    rows = [f"{emodb_sample / '03a01Wa.wav'},anger,{end}" for end in (60, "")]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,end", *rows, f"{emodb_sample / '12a02Ac.wav'},fear,"]))
    records = build(tmp_path / "list.csv", tmp_path / "records")
    assert evaluate(records, tmp_path / "eval") == 1
    assert "holds 1 recording twice, for example" in capfd.readouterr().err
    assert not (tmp_path / "eval").exists()


def untrained_bundle(folder: Path, records: RecordFolder, temperature: float = 1.0, recipe: Recipe = PLAIN) -> Bundle:
    folder.mkdir()
    n_features = functional_extractor(records.front_end).output_shape[-1]
    scale = Scale(np.zeros(n_features, np.float32), np.ones(n_features, np.float32))
    network = build_network(records.front_end, len(records.labels), recipe, scale)
    chance = np.random.default_rng(0)
    for weight in network.weights:
        weight.assign(chance.normal(0, 0.01, weight.shape))
    novelty = Novelty(np.zeros((1, n_features), np.float32), np.ones(n_features, np.float32), scale=1.0, shape=1.0)
    training = {"recipe": {"name": "none", "epochs": 0}}
    arrays = BundleArrays(head_of(network, scale), novelty, None)
    content = BundleContent(
        labels=records.labels,
        front_end=records.front_end,
        calibration=Calibration(temperature=temperature),
        speaker_normalised=recipe.normalise == "speaker",
        training=training,
    )
    return save_bundle(folder, network, encoder_of(network), arrays, content)


def predicted(
    bundle: Bundle, records: RecordFolder, split: Selection, adapt: Adaptation = "none"
) -> list[LabelledPrediction]:
    return predict_examples(bundle, Classifier.of(bundle), records, split, adapt)


@pytest.mark.parametrize("normalise", ["speaker", "file"])
def test_both_normalise_alike(tmp_path: Path, emodb_sample: Path, normalise: str, capfd) -> None:
    """By speaker, or each recording alone; only a model that normalises by speaker differs between the two."""
    records = build(emodb_sample, tmp_path / "records", KEPT)
    bundle = untrained_bundle(tmp_path / "bundle", records, recipe=PLAIN.replace(normalise=normalise))
    split = split_selection(records, "train")
    evaluated = {
        one.prediction.file: one.prediction.probabilities
        for one in predicted(bundle, records, split, "speakers" if normalise == "speaker" else "none")
    }
    inferred = {}
    for named in (True, False):
        out = tmp_path / f"{named}.csv"
        options = ["--speaker-from", "regex:(?P<speaker>[0-9]{2})"] if named else ["--adapt", "none"]
        assert main(["infer", str(emodb_sample), "-o", str(out), "--model", str(bundle.path), "-j", "2", *options]) == 0
        assert ("the speakers have no effect" in capfd.readouterr().err) == (named and normalise != "speaker")
        inferred[named] = {row["file"]: [float(row[f"p_{label}"]) for label in bundle.labels] for row in read(out)}
    assert inferred[True].keys() == evaluated.keys()
    for file, probabilities in evaluated.items():
        assert inferred[True][file] == pytest.approx(probabilities, abs=1e-5)
    apart = max(np.abs(np.array(inferred[True][file]) - inferred[False][file]).max() for file in evaluated)
    assert apart > 0.01 if normalise == "speaker" else apart == 0


SHORT = {"length_secs": 2.0, "window_hop_secs": 1.0}


@pytest.mark.parametrize("front_end", [KEPT.replace(**SHORT), WINDOWED.replace(**SHORT)], ids=["kept", "padded"])
def test_windows_of_a_recording_are_one_prediction_in_both(
    tmp_path: Path, emodb_sample: Path, front_end: FrontEnd
) -> None:
    records = build(emodb_sample, tmp_path / "records", front_end)
    bundle = untrained_bundle(tmp_path / "bundle", records)
    assert records.n_examples() > 14
    split = split_selection(records, "train")
    found = predicted(bundle, records, split)
    evaluated = {one.prediction.file: one.prediction for one in found}
    recordings = list(recordings_of(list_source(str(emodb_sample)).recordings))
    with LocalEngine(2) as engine:
        results = results_of(recordings, engine, EmbeddingOptions.of(bundle))
    for one in classified(recordings, results, bundle=bundle):
        assert evaluated[one.file].probabilities == pytest.approx(one.probabilities, abs=1e-6)
        assert evaluated[one.file].end_secs == pytest.approx(one.end_secs, abs=1e-5)
        assert one.end_secs == pytest.approx(one.duration_secs)
    assert len(evaluated) == 14


def test_probabilities_are_given_at_the_bundles_temperature(tmp_path: Path, emodb_sample: Path) -> None:
    records = build(emodb_sample, tmp_path / "records", KEPT)
    bundle = untrained_bundle(tmp_path / "bundle", records, temperature=0.25)
    split = split_selection(records, "train")
    classifier = Classifier.of(bundle)
    raw, sharp = (
        [one.prediction.probabilities for one in predict_examples(bundle, one, records, split)]
        for one in (replace(classifier, calibration=Calibration(temperature=1.0)), classifier)
    )
    np.testing.assert_allclose(sharp, apply_temperature(raw, 0.25), atol=1e-6)
    assert np.abs(np.array(sharp) - raw).max() > 0.01
    assert main(["evaluate", str(bundle.path), str(records.path), "-o", str(tmp_path / "e"), "--split", "train"]) == 0
    written = [[float(row[f"p_{label}"]) for label in bundle.labels] for row in read(tmp_path / "e/predictions.csv")]
    np.testing.assert_allclose(written, sharp, atol=1e-6)


def test_in_python_the_result_has_tables(tmp_path: Path, kept_records: RecordFolder) -> None:
    bundle = untrained_bundle(tmp_path / "bundle", kept_records)
    result = api.evaluate(bundle.path, kept_records.path, tmp_path / "eval", split="train")
    predictions = result.predictions()
    assert repr(result).startswith(f"<Evaluation {tmp_path / 'eval'}: UAR {result.scores.uar:.3f}")
    assert result.confusion().to_numpy().sum() == len(predictions)
    assert (predictions["label"] == predictions["emotion"]).mean() == pytest.approx(result.scores.wa)
    again = api.evaluate(bundle.path, kept_records.path, tmp_path / "eval", split="train")
    assert again.was_finished
    assert again.confusion().equals(result.confusion())
