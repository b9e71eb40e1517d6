"""Predictions adapt to the batch they are made in."""

import csv
import dataclasses
import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import soundfile

from ser_batch.cli.app import main
from ser_batch.inference.adaptation import find_groups
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import DESCRIPTION, VOICES, Adaptation, Calibration, shipped_bundle
from ser_batch.storage.writing import write_json
from tools.novelty_auroc import synthetic_music


@pytest.fixture
def source(tmp_path: Path, emodb_sample: Path) -> Path:
    return Path(shutil.copytree(emodb_sample, tmp_path / "in"))


def infer(source: Path | str, out: Path, *options: str) -> int:
    return main(["infer", str(source), "-o", str(out), "-j", "2", "-q", *options])


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def probabilities(path: Path) -> np.ndarray:
    return np.array([[float(row[name]) for name in row if name.startswith("p_")] for row in read(path)])


@pytest.mark.parametrize("adapt", ["batch", "voices"])
def test_order_and_workers_change_nothing(source: Path, tmp_path: Path, adapt: str) -> None:
    names = sorted(path.name for path in source.glob("*.wav"))
    for number, (order, workers) in enumerate([(names, "1"), (names[::-1], "3")]):
        (source / "list.csv").write_text("\n".join(["file", *order]))
        assert infer(source / "list.csv", tmp_path / f"{number}.csv", "--adapt", adapt, "-j", workers) == 0
    one, other = (sorted(read(tmp_path / f"{number}.csv"), key=lambda row: row["file"]) for number in (0, 1))
    assert one == other


@pytest.mark.parametrize("adapt", ["batch", "voices"])
def test_an_update_gives_the_bytes_of_a_new_table(source: Path, tmp_path: Path, adapt: str) -> None:
    moved = shutil.move(source / "03a01Wa.wav", tmp_path / "later.wav")
    assert infer(source, tmp_path / "preds.csv", "--adapt", adapt) == 0
    before = (tmp_path / "preds.csv").read_bytes()
    shutil.move(moved, source / "03a01Wa.wav")
    assert infer(source, tmp_path / "preds.csv", "--adapt", adapt, "--update") == 0
    assert infer(source, tmp_path / "new.csv", "--adapt", adapt) == 0
    after = (tmp_path / "preds.csv").read_bytes()
    assert after == (tmp_path / "new.csv").read_bytes()
    assert all(line not in after.splitlines() for line in before.splitlines()[1:])  # every row depends on the batch


def test_another_adaptation_is_another_table(source: Path, tmp_path: Path, capfd) -> None:
    assert infer(source, tmp_path / "preds.csv", "--adapt", "batch") == 0
    assert infer(source, tmp_path / "preds.csv", "--adapt", "none") == 1
    assert 'differences: adapt was "batch", now "none"' in capfd.readouterr().err


def test_a_channel_that_all_recordings_share_changes_less_with_the_batch(source: Path, tmp_path: Path) -> None:
    (tmp_path / "dull").mkdir()
    low_pass = scipy.signal.butter(2, 1500, fs=16_000, output="sos")
    for path in source.glob("*.wav"):
        samples, rate_hz = soundfile.read(path)
        soundfile.write(tmp_path / "dull" / path.name, scipy.signal.sosfilt(low_pass, samples), rate_hz)
    changed = {}
    for adapt in ("none", "batch"):
        tables = []
        for folder in (source, tmp_path / "dull"):
            infer(folder, tmp_path / f"{folder.name}-{adapt}.csv", "--adapt", adapt)
            tables.append(probabilities(tmp_path / f"{folder.name}-{adapt}.csv"))
        # Where a batch is unfamiliar, its logits are divided by a constant: correlations ignore it.
        logits = [np.log(table + 1e-6) for table in tables]
        changed[adapt] = 1 - np.mean([np.corrcoef(*pair)[0, 1] for pair in zip(*logits, strict=True)])
    assert changed["batch"] < 0.8 * changed["none"], changed


def test_the_column_speaker(source: Path, tmp_path: Path) -> None:
    speakers = ["--speaker-from", "regex:^(?P<speaker>..)"]
    infer(source, tmp_path / "given.csv", *speakers)
    assert all(row["speaker"] == row["file"][:2] for row in read(tmp_path / "given.csv"))
    infer(source, tmp_path / "voices.csv", "--adapt", "voices")
    assert {row["speaker"] for row in read(tmp_path / "voices.csv")} >= {"voice-001"}
    infer(source, tmp_path / "batch.csv", "--adapt", "batch")
    assert {row["speaker"] for row in read(tmp_path / "batch.csv")} == {""}
    infer(source, tmp_path / "given-none.csv", "--adapt", "none", *speakers)
    alone = probabilities(tmp_path / "given-none.csv")
    assert np.abs(probabilities(tmp_path / "given.csv") - alone).max() > 0.01


def test_one_recording_is_predicted_alone(source: Path, tmp_path: Path, capfd) -> None:
    one = source / "03a01Wa.wav"
    assert main(["infer", str(one), "-o", str(tmp_path / "one.csv")]) == 0
    assert "predictions for each recording alone (--adapt none)" in capfd.readouterr().err
    assert infer(one, tmp_path / "none.csv", "--adapt", "none") == 0
    assert read(tmp_path / "one.csv") == read(tmp_path / "none.csv")


def test_a_small_batch_is_noted(source: Path, tmp_path: Path, capfd) -> None:
    assert main(["infer", str(source), "-o", str(tmp_path / "preds.csv")]) == 0
    output = capfd.readouterr().err
    assert "warning: predictions are adapted to a batch of 14 recordings: if most have the same emotion" in output
    assert "adapted to the voices found (--adapt voices)" in output


def test_a_folder_of_unusable_files(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(3):
        (tmp_path / "in" / f"{number}.wav").write_bytes(b"RIFF")
    assert infer(tmp_path / "in", tmp_path / "preds.csv", "--adapt", "voices") == 1
    assert all(row["error"] for row in read(tmp_path / "preds.csv"))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--adapt", "everyone"], "--adapt everyone: choose one of none, batch, speakers, voices"),
        (["--adapt", "speakers"], "--adapt speakers: no recording has a speaker; give --speaker-from or a column"),
        (["--adapt", "batch", "-o", "-"], "--adapt batch: --out - writes each row at once; give --adapt none"),
        (["--labels", "anger,joy"], "--labels anger,joy: there is no label 'joy'; there are anger, boredom"),
        (["--labels", "anger"], "the labels to choose among are anger; give two or more"),
        (["--label-map", "unknown.csv"], "--label-map: the model has no label 'joy'; it has anger, boredom"),
        (
            ["--label-map", "map.csv", "--labels", "fear"],
            "there is no label 'fear'; there are negative, positive, neut",
        ),
    ],
)
def test_wrong_usage_is_one_line(source: Path, tmp_path: Path, capfd, monkeypatch, options, problem: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("unknown.csv").write_text("from,to\njoy,positive\n")
    Path("map.csv").write_text(LABEL_MAP)
    assert main(["infer", str(source), "-o", str(tmp_path / "preds.csv"), *options]) == 2
    assert problem in " ".join(capfd.readouterr().err.split())


def test_a_model_without_voices(source: Path, tmp_path: Path, capfd) -> None:
    bundle = shipped_bundle()
    copied = Path(shutil.copytree(bundle.path, tmp_path / "bundle"))
    (copied / VOICES).unlink()
    content = bundle.content.replace(voices=None).to_json() | {"kind": "bundle", "fingerprint": bundle.fingerprint}
    write_json(copied / DESCRIPTION, content)
    assert infer(source, tmp_path / "preds.csv", "--model", str(copied), "--adapt", "voices") == 2
    assert "this model was trained without speakers; choose one of none, batch, speakers" in capfd.readouterr().err
    assert main(["infer", str(source), "-o", str(tmp_path / "preds.csv"), "--model", str(copied)]) == 0
    assert "adapted to the batch" in capfd.readouterr().err


def test_a_batch_of_music_is_unfamiliar_although_it_is_adapted_to(tmp_path: Path, capfd) -> None:
    """After adaptation to nothing but music, its mean is that of speech."""
    (tmp_path / "in").mkdir()
    for number in range(12):
        made = synthetic_music(np.zeros(32_000), [], np.random.default_rng(number))
        soundfile.write(tmp_path / "in" / f"{number}.wav", 0.5 * made / np.abs(made).max(), 16_000)
    assert main(["infer", str(tmp_path / "in"), "-o", str(tmp_path / "preds.csv"), "-j", "2"]) == 0
    assert "12 of 12 recordings are unlike the training data" in capfd.readouterr().err
    rows = read(tmp_path / "preds.csv")
    assert all("unfamiliar" in row["warnings"].split() for row in rows)
    assert min(float(row["novelty"]) for row in rows) < 0.95


def test_confidence_is_lower_in_an_unfamiliar_batch() -> None:
    classifier = Classifier.of(shipped_bundle())
    calibration = Calibration(temperature=1.0, adapted_temperature=0.8)
    classifier = dataclasses.replace(classifier, calibration=calibration)
    figures = np.array([[0.7, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01, 0.5, 0.0]])
    alone, adapted, unfamiliar = (classifier.calibrated(figures, one) for one in (None, 1.0, 2.0))
    assert alone[0, 0] == pytest.approx(0.7)
    assert adapted[0, 0] == pytest.approx(0.7**1.25 / (figures[0, :7] ** 1.25).sum())
    assert unfamiliar[0, 0] == pytest.approx(0.7**0.625 / (figures[0, :7] ** 0.625).sum())
    for one in (alone, adapted, unfamiliar):
        assert one[0, :-1].sum() == pytest.approx(1)
        assert one[0, -1] == 0.5


def test_confidence_is_lower_for_a_recording_far_from_the_training_data() -> None:
    classifier = dataclasses.replace(Classifier.of(shipped_bundle()), calibration=Calibration(temperature=1.0))
    near, far = np.array([[0.7, 0.1, 0.1, 0.05, 0.03, 0.01, 0.01, 0.5, 0.0]] * 2)
    far[-2:] = 1.0, 0.3
    one, other = classifier.calibrated(np.stack([near, far]))
    assert one[0] == pytest.approx(0.7)
    assert 0.3 < other[0] < 0.6
    assert other[:-1].sum() == pytest.approx(1)


def test_a_batch_without_meaning_is_less_confident_than_speech(source: Path, tmp_path: Path) -> None:
    """Noise shaped as speech: adapted, it is near the training data, but models of different speakers disagree."""
    (tmp_path / "noise").mkdir()
    chance = np.random.default_rng(0)
    for path in source.glob("*.wav"):
        samples, rate_hz = soundfile.read(path)
        spectrum = np.fft.rfft(samples) * np.exp(2j * np.pi * chance.random(len(samples) // 2 + 1))
        shaped = np.fft.irfft(spectrum, len(samples))
        soundfile.write(tmp_path / "noise" / path.name, 0.5 * shaped / np.abs(shaped).max(), rate_hz)
    confidences = []
    for folder in (source, tmp_path / "noise"):
        infer(folder, tmp_path / f"{folder.name}.csv", "--adapt", "batch")
        confidences.append(probabilities(tmp_path / f"{folder.name}.csv").max(axis=1).mean())
    assert confidences[1] < confidences[0] - 0.2


@pytest.mark.parametrize("adaptation", ["batch", "voices"])
def test_the_embeddings_of_a_large_batch_are_not_kept_in_memory(adaptation: Adaptation) -> None:
    arrays = shipped_bundle().load_arrays()
    head, n, chance = arrays.head, 30_000, np.random.default_rng(0)
    kinds = head.mean + np.sqrt(head.variance) * chance.normal(size=(50, len(head.mean)))

    def embeddings() -> Iterator[np.ndarray]:
        return (kinds[number % 50].astype(np.float32) for number in range(n))

    tracemalloc.start()
    try:
        groups = find_groups(adaptation, embeddings, [""] * n, [str(number) for number in range(n)], arrays)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(groups.numbers) == n
    assert peak_bytes < 120e6  # all embeddings are 142 MB, in float64 twice as much


def test_the_recordings_of_the_training_are_familiar(source: Path, tmp_path: Path) -> None:
    assert infer(source, tmp_path / "preds.csv") == 0
    assert sum("unfamiliar" in row["warnings"] for row in read(tmp_path / "preds.csv")) <= 2


# Valence, without boredom and happiness under its own name.
LABEL_MAP = """from,to
anger,negative
disgust,negative
fear,negative
sadness,negative
happiness,positive
boredom,(drop)
"""


def test_labels_are_merged_renamed_and_dropped(source: Path, tmp_path: Path, capfd) -> None:
    (tmp_path / "map.csv").write_text(LABEL_MAP)
    infer(source, tmp_path / "all.csv", "--adapt", "none")
    infer(source, tmp_path / "valence.csv", "--adapt", "none", "--label-map", str(tmp_path / "map.csv"))
    every, merged = read(tmp_path / "all.csv"), read(tmp_path / "valence.csv")
    assert [name for name in merged[0] if name.startswith("p_")] == ["p_negative", "p_positive", "p_neutral"]
    for one, two in zip(every, merged, strict=True):
        negative = sum(float(one[f"p_{label}"]) for label in ("anger", "disgust", "fear", "sadness"))
        assert float(two["p_negative"]) == pytest.approx(negative / (1 - float(one["p_boredom"])), abs=1e-4)
        best = max(("negative", "positive", "neutral"), key=lambda name: float(two[f"p_{name}"]))
        assert two["emotion"] == best
    assert infer(source, tmp_path / "all.csv", "--adapt", "none", "--label-map", str(tmp_path / "map.csv")) == 1
    assert "negative = anger + disgust + fear + sadness" in capfd.readouterr().err


def test_some_labels_only(source: Path, tmp_path: Path) -> None:
    infer(source, tmp_path / "all.csv", "--adapt", "none")
    infer(source, tmp_path / "some.csv", "--adapt", "none", "--labels", "sadness, anger")
    every, some = read(tmp_path / "all.csv"), read(tmp_path / "some.csv")
    assert [name for name in some[0] if name.startswith("p_")] == ["p_anger", "p_sadness"]
    for one, two in zip(every, some, strict=True):
        anger, sadness = float(one["p_anger"]), float(one["p_sadness"])
        assert float(two["p_anger"]) == pytest.approx(anger / (anger + sadness), abs=0.02)
        assert float(two["p_anger"]) + float(two["p_sadness"]) == pytest.approx(1, abs=2e-6)
