"""Cross-validation of 14 recordings of 10 speakers."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ser_batch.cli.app import main
from ser_batch.errors import OutputError, RecordsError, TrainingError, UsageError
from ser_batch.evaluation import cross_validate as validation
from ser_batch.evaluation import fold_tasks
from ser_batch.evaluation.cross_validate import CrossValidationOptions, cross_validate, parallel_folds
from ser_batch.evaluation.fold_predictions import read_predictions
from ser_batch.evaluation.fold_tasks import extract_features, run_fold
from ser_batch.inference.examples import LabelledPrediction
from ser_batch.inference.predictions import Prediction
from ser_batch.models.bundles import Adaptation, shipped_bundle
from ser_batch.models.networks.options import Normalisation
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.reader import Selection, TrainValidation
from ser_batch.training.recipes import Recipe
from tests.conftest import made_once
from tests.inline import Dying, Inline
from tests.manifests import example_rows
from tests.recipes import PLAIN, write_recipe

QUICK = PLAIN.replace(name="quick", epochs=1)
TWO_FOLDS = CrossValidationOptions("speaker", 2, 1, 0)
FILES = {
    *("predictions.csv", "scores.json", "scores.csv", "confusion_matrix.csv", "confusion_matrix.png"),
    "reliability.png",
    "history.csv",
    ".lock",
}


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- for real


def arguments(records: RecordFolder, out: Path, workers: int, *options: str) -> list[str]:
    recipe = write_recipe(QUICK, out.parent)
    command = ["cross-validate", str(records.path), "-o", str(out), "--recipe", str(recipe), "-j", str(workers)]
    return [*command, "--folds", "2", "--seed", "5", *options]


@dataclass(frozen=True)
class Whole:
    out: Path
    output: str


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kept_records: RecordFolder) -> Whole:
    """Two folds, undisturbed, with two workers."""

    def make(folder: Path) -> None:
        command = [sys.executable, "-m", "ser_batch", *arguments(kept_records, folder / "cv", 2)]
        (folder / "scratch").mkdir()
        environment = os.environ | {"TMPDIR": str(folder / "scratch")}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        assert not list((folder / "scratch").iterdir())  # workers tidy up
        (folder / "output").write_text(done.stdout + done.stderr)

    folder = made_once(tmp_path_factory, "whole-validation", make)
    return Whole(folder / "cv", (folder / "output").read_text())


def test_every_example_is_predicted_once(whole: Whole, kept_records: RecordFolder) -> None:
    assert {path.name for path in whole.out.iterdir()} == FILES
    rows = read(whole.out / "predictions.csv")
    files = sorted(row["file"] for row in example_rows(kept_records))
    assert sorted(row["file"] for row in rows) == files
    assert {row["seed"] for row in rows} == {"5"}
    fold_of = {row["speaker"]: row["fold"] for row in rows}
    assert all(fold_of[row["speaker"]] == row["fold"] for row in rows)
    truth = {row["file"]: row["label"] for row in example_rows(kept_records)}
    for row in rows:
        assert row["label"] == truth[row["file"]]
        probabilities = [float(row[f"p_{label}"]) for label in kept_records.labels]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert max(probabilities) == float(row["confidence"]) == float(row[f"p_{row['emotion']}"])


def test_the_history_has_every_epoch_of_every_fold(whole: Whole) -> None:
    rows = read(whole.out / "history.csv")
    assert list(rows[0]) == ["seed", "fold", "part", "epoch", "loss", "accuracy"]
    assert [(row["seed"], row["fold"], int(row["epoch"])) for row in rows] == [
        ("5", fold, epoch) for fold in ("01", "02") for epoch in range(1, QUICK.epochs + 1)
    ]
    assert all(0 < float(row["loss"]) < 20 and 0 <= float(row["accuracy"]) <= 1 for row in rows)
    novelties = [float(row["novelty"]) for row in read(whole.out / "predictions.csv")]
    assert len(set(novelties)) > 10
    assert all(0 <= one <= 1 for one in novelties)


def test_its_scores_are_those_of_its_predictions(whole: Whole) -> None:
    scores = json.loads((whole.out / "scores.json").read_text())
    rows = read(whole.out / "predictions.csv")
    correct = sum(row["label"] == row["emotion"] for row in rows)
    assert scores["wa"]["per_seed"]["5"] == pytest.approx(correct / 14, abs=1e-6)
    assert f"UAR  {scores['uar']['mean']:6.3f}" in whole.output
    assert len([line for line in whole.output.splitlines() if line.startswith("fold ")]) == 2
    assert "(2 of 2)" in whole.output
    options = read_predictions(whole.out).protocol
    assert (options["by"], options["folds"], options["seeds"], options["first_seed"]) == ("speaker", 2, 1, 5)
    assert (options["normalise"], options["recipe"]["name"]) == ("train", "quick")


def test_a_finished_cross_validation_is_not_repeated(whole: Whole, kept_records: RecordFolder, capfd) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.out.iterdir()}
    assert main(arguments(kept_records, whole.out, 1)) == 0
    assert "already finished, nothing to do" in capfd.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in whole.out.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--folds", "3"], "folds was 2, now 3"),
        (["--seeds", "2"], "seeds was 1, now 2"),
        (["--seed", "0"], "first seed was 5, now 0"),
        (["--by", "random"], 'by was "speaker", now "random"'),
        (["--epochs", "2"], "recipe epochs was 1, now 2"),
        (["--normalise", "file"], 'normalise was "train", now "file"'),
    ],
)
def test_another_cross_validation_in_the_folder_is_refused(
    whole: Whole, kept_records: RecordFolder, capfd, options: list[str], expected: str
) -> None:
    assert main(arguments(kept_records, whole.out, 1, *options)) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert f"{whole.out}: holds a cross-validation made from other inputs or settings; differences: {expected}" in line
    assert "--restart" in line


def test_a_part_that_is_missing_or_damaged_is_named(
    whole: Whole, kept_records: RecordFolder, tmp_path: Path, capfd
) -> None:
    out = Path(shutil.copytree(whole.out, tmp_path / "out"))
    (out / "predictions.csv").unlink()
    assert main(arguments(kept_records, out, 1)) == 1
    assert f"error: {out / 'predictions.csv'}: is missing; give --restart" in capfd.readouterr().err
    (out / "scores.json").write_text("{")
    assert main(arguments(kept_records, out, 1)) == 1
    assert f"error: {out / 'scores.json'}: is damaged (" in capfd.readouterr().err


def test_a_recipe_that_does_not_fit_leaves_nothing_behind(kept_records: RecordFolder, tmp_path: Path, capfd) -> None:
    assert main(arguments(kept_records, tmp_path / "out", 1, "--normalise", "none")) == 1
    assert "needs a normalisation; give --normalise train" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_killed_with_one_worker_and_started_again_it_ends_as_with_two(
    whole: Whole, kept_records: RecordFolder, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "ser_batch", *arguments(kept_records, out, 1)]
    chance = random.Random()
    delays = [chance.uniform(0, 1), chance.uniform(0, 1)]
    for delay, begun in zip(delays, ("seed-5-fold-01", "seed-5-fold-02"), strict=True):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not (out / "folds" / begun).exists():
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.02)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "scores.json").exists(), delays
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, (delays, done.stderr)
    assert {path.name for path in out.iterdir()} == FILES
    for name in ("predictions.csv", "scores.csv", "confusion_matrix.csv", "scores.json"):
        assert (out / name).read_bytes() == (whole.out / name).read_bytes(), (name, delays)


# --- with trainings that only record their arguments


Rows = list[dict[str, str]]


@dataclass
class Trainings:
    """The arguments of each training of each fold."""

    records: RecordFolder
    seen: list[tuple[int, TrainValidation, Path]]
    held_out: list[Selection]

    def train(
        self,
        records: RecordFolder,
        folder: Path,
        recipe: Recipe,
        seed: int,
        sides: TrainValidation,
        init: Any,
        features: Path,
    ) -> Any:
        folder.mkdir(parents=True)
        assert sides.validation is None
        assert init is None
        self.seen.append((seed, sides, folder))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "history.csv").write_text("epoch,accuracy,loss\n1,0.5,1.5\n")
        return SimpleNamespace(bundle="trained")

    def predict(
        self, bundle: Any, classifier: Any, records: RecordFolder, selection: Selection, adapt: str
    ) -> list[LabelledPrediction]:
        """Always the first label."""
        assert (bundle, classifier) == ("trained", "classifier")
        assert adapt in ("none", "speakers")
        self.held_out.append(selection)
        found = []
        for row in example_rows(records, selection):
            prediction = Prediction(row["file"], row["start"], row["end"], (0.4, *(0.1,) * 6))
            found.append(LabelledPrediction(row["speaker"], records.labels.index(row["label"]), prediction))
        return found

    def folds(self) -> list[tuple[Rows, Rows]]:
        """Rows of each fold: what is trained on, and what it is scored on."""
        return [
            (example_rows(self.records, sides.train), example_rows(self.records, held_out))
            for (_, sides, _), held_out in zip(self.seen, self.held_out, strict=True)
        ]


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch, kept_records: RecordFolder) -> Trainings:
    trainings = Trainings(kept_records, [], [])
    monkeypatch.setattr(fold_tasks, "train", trainings.train)
    monkeypatch.setattr(fold_tasks, "predict_examples", trainings.predict)
    monkeypatch.setattr(fold_tasks, "Classifier", SimpleNamespace(of=lambda bundle: "classifier"))
    monkeypatch.setattr(fold_tasks, "one_thread", lambda *_: None)
    return trainings


def values(rows: Sequence[dict[str, str]], column: str) -> set[str]:
    return {row[column] for row in rows}


def test_who_is_held_out_is_in_no_training(trainings: Trainings, tmp_path: Path) -> None:
    reports: list[Any] = []
    options = CrossValidationOptions("speaker", None, 2, 3)
    found = cross_validate(trainings.records, tmp_path / "cv", QUICK, options, Inline(), on_fold=reports.append)
    assert not found.was_finished
    assert len(found.predictions()) == 2 * 14
    speakers = sorted(values(example_rows(trainings.records), "speaker"))
    assert [seed for seed, *_ in trainings.seen] == [3] * 10 + [4] * 10
    assert [report.name for report in reports] == 2 * speakers
    assert (reports[-1].done, reports[-1].of) == (20, 20)
    for (train, held_out), speaker in zip(trainings.folds(), 2 * speakers, strict=True):
        assert values(held_out, "speaker") == {speaker}
        assert values(train, "speaker") == set(speakers) - {speaker}
        assert not values(held_out, "sha256") & values(train, "sha256")
        assert len(train) == 14 - len(held_out)
    assert len({str(sides.description) for _, sides, _ in trainings.seen}) == 10
    rows = read(tmp_path / "cv" / "predictions.csv")
    assert all(row["fold"] == row["speaker"] for row in rows)
    assert {row["emotion"] for row in rows} == {"anger"}
    title = json.loads((tmp_path / "cv" / "scores.json").read_text())["title"]
    assert title == "recipe quick, leave one speaker out"


def test_copies_of_held_out_recordings_are_in_no_training_of_them(
    trainings: Trainings, tmp_path: Path, emodb_sample: Path
) -> None:
    rows = [f"{path},{path.name[5]},{path.name[:2]}" for path in sorted(emodb_sample.iterdir())]
    for copied in sorted(emodb_sample.iterdir())[:5]:
        shutil.copy(copied, tmp_path / f"copy of {copied.name}")
        rows.append(f"copy of {copied.name},{copied.name[5]},other")
    (tmp_path / "list.csv").write_text("file,label,speaker\n" + "\n".join(rows))
    assert main(["build-records", str(tmp_path / "list.csv"), "-o", str(tmp_path / "r"), "--split", "none", "-q"]) == 0
    trainings.records = open_records(tmp_path / "r")
    cross_validate(trainings.records, tmp_path / "cv", QUICK, CrossValidationOptions("speaker", None, 2, 0), Inline())
    folds = trainings.folds()
    assert len(folds) == 22
    for train, held_out in folds:
        assert not values(train, "sha256") & values(held_out, "sha256")


def test_a_bundle_that_was_trained_on_the_held_out_speakers_is_no_start(trainings: Trainings, tmp_path: Path) -> None:
    shipped = shipped_bundle()
    training = {"records": trainings.records.fingerprint}
    options = CrossValidationOptions(
        "speaker", None, 1, 0, init=replace(shipped, content=shipped.content.replace(training=training))
    )
    with pytest.raises(UsageError, match="was trained on these records"):
        cross_validate(trainings.records, tmp_path / "cv", QUICK, options, Inline())
    assert not (tmp_path / "cv").exists()


@pytest.mark.parametrize("n_folds", [None, 4])
def test_at_random_every_recording_is_held_out_once(trainings: Trainings, tmp_path: Path, n_folds: int | None) -> None:
    cross_validate(trainings.records, tmp_path / "cv", QUICK, CrossValidationOptions("random", n_folds, 1, 0), Inline())
    folds = trainings.folds()
    assert len(folds) == (n_folds or 10)
    held_out = [row["file"] for *_, rows in folds for row in rows]
    assert sorted(held_out) == sorted(row["file"] for row in example_rows(trainings.records))
    for train, rows in folds:
        assert values(rows, "file") == values(example_rows(trainings.records), "file") - values(train, "file")
    title = json.loads((tmp_path / "cv" / "scores.json").read_text())["title"]
    assert title == f"recipe quick, {n_folds or 10} random folds"


def test_normalising_by_speaker_is_named_beside_every_score(trainings: Trainings, tmp_path: Path) -> None:
    recipe = QUICK.replace(normalise="speaker")
    options = CrossValidationOptions("speaker", 3, 1, 0, "speakers")
    cross_validate(trainings.records, tmp_path / "cv", recipe, options, Inline())
    scores = json.loads((tmp_path / "cv" / "scores.json").read_text())
    assert scores["title"].endswith(
        "3 speaker-grouped folds, adapted to each speaker's held-out, unlabelled recordings"
    )
    assert scores["protocol"]["normalise"] == "speaker"


@pytest.mark.parametrize(
    ("adapt", "normalise", "problem"),
    [
        ("voices", "speaker", "--adapt voices: each fold holds out one speaker only; give --folds N"),
        ("batch", "speaker", "--adapt batch: each fold holds out one speaker only; give --folds N"),
        ("speakers", "train", "--adapt speakers: the recipe needs normalise = speaker; it has train"),
    ],
)
def test_adaptations_that_cannot_be_scored(
    trainings: Trainings, tmp_path: Path, adapt: Adaptation, normalise: Normalisation, problem: str
) -> None:
    options = CrossValidationOptions("speaker", None, 1, 0, adapt)
    with pytest.raises(UsageError, match=problem):
        cross_validate(trainings.records, tmp_path / "cv", QUICK.replace(normalise=normalise), options, Inline())
    assert not (tmp_path / "cv").exists()


def test_finished_folds_are_not_trained_again(trainings: Trainings, tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        if report.done == 3:
            raise KeyboardInterrupt

    options = CrossValidationOptions("speaker", 5, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(trainings.records, tmp_path / "cv", QUICK, options, Inline(), on_fold=stop)
    cross_validate(trainings.records, tmp_path / "cv", QUICK, options, Inline())
    folders = [folder.name for *_, folder in trainings.seen]
    assert folders == [f"seed-0-fold-{number:02d}" for number in range(1, 6)]
    assert not (tmp_path / "cv" / "folds").exists()


def test_an_unfinished_cross_validation_of_another_kind_is_refused(trainings: Trainings, tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        raise KeyboardInterrupt

    out, options = tmp_path / "cv", CrossValidationOptions("speaker", 5, 1, 0)
    with pytest.raises(KeyboardInterrupt):
        cross_validate(trainings.records, out, QUICK, options, Inline(), on_fold=stop)
    with pytest.raises(
        OutputError, match=r"holds a cross-validation made from other inputs or settings.*folds was 5, now 4"
    ):
        cross_validate(trainings.records, out, QUICK, replace(options, n_folds=4), Inline())
    cross_validate(trainings.records, out, QUICK, replace(options, n_folds=4), Inline(), restart=True)
    assert {path.name for path in out.iterdir()} == FILES


def test_records_that_changed_are_refused(trainings: Trainings, tmp_path: Path) -> None:
    out, options = tmp_path / "cv", TWO_FOLDS
    cross_validate(trainings.records, out, QUICK, options, Inline())
    changed = RecordFolder(
        trainings.records.path, trainings.records.provenance.model_copy(update={"fingerprint": "0" * 64})
    )
    with pytest.raises(OutputError, match="differences: records was"):
        cross_validate(changed, out, QUICK, options, Inline())


def test_other_files_in_the_folder_are_left_alone(trainings: Trainings, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    for restart in (False, True):
        with pytest.raises(OutputError, match=r"thesis\.tex"):
            cross_validate(trainings.records, tmp_path, QUICK, TWO_FOLDS, Inline(), restart=restart)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(("dies_at", "what"), [(extract_features, "features"), (run_fold, "fold 1 of seed 0")])
def test_a_worker_that_dies_is_one_line(
    kept_records: RecordFolder, tmp_path: Path, dies_at: Callable[[Any], Any], what: str
) -> None:
    with pytest.raises(TrainingError, match=f"^{what}: the worker was killed; run the same command again"):
        cross_validate(kept_records, tmp_path / "cv", QUICK, TWO_FOLDS, Dying(dies_at))


# --- what cannot be divided


@pytest.mark.parametrize(
    ("options", "error", "expected"),
    [
        (CrossValidationOptions("speaker", 11, 1, 0), UsageError, "--folds 11: there are 10 speakers"),
        (CrossValidationOptions("random", 15, 1, 0), UsageError, "--folds 15: different recordings: 14"),
    ],
)
def test_too_many_folds_are_refused_and_leave_nothing(
    trainings: Trainings, tmp_path: Path, options: CrossValidationOptions, error: type[Exception], expected: str
) -> None:
    with pytest.raises(error, match=expected):
        cross_validate(trainings.records, tmp_path / "cv", QUICK, options, Inline())
    assert not (tmp_path / "cv").exists()


def test_one_speaker_is_refused_with_the_way_out(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    lines = [f"{emodb_sample / name},{label},x" for name, label in (("03a01Fa.wav", "a"), ("03a01Wa.wav", "b"))]
    (tmp_path / "list.csv").write_text("file,label,speaker\n" + "\n".join(lines))
    options = ["--split", "none", "-q"]
    assert main(["build-records", str(tmp_path / "list.csv"), "-o", str(tmp_path / "records"), *options]) == 0
    assert main(["cross-validate", str(tmp_path / "records"), "-o", str(tmp_path / "cv"), "-j", "1"]) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error")]
    assert "known speakers: 1, and a fold by speaker needs two or more" in line
    assert "--by random" in line


def test_parts_that_begin_together_are_each_predicted(
    trainings: Trainings, tmp_path: Path, emodb_sample: Path, capfd
) -> None:
    rows = [
        f"{path},{path.name[5]},{path.name[:2]},0,{end}" for path in sorted(emodb_sample.iterdir()) for end in (1, "")
    ]
    (tmp_path / "list.csv").write_text("file,label,speaker,start,end\n" + "\n".join(rows))
    assert main(["build-records", str(tmp_path / "list.csv"), "-o", str(tmp_path / "r"), "--split", "none", "-q"]) == 0
    cross_validate(open_records(tmp_path / "r"), tmp_path / "cv", QUICK, TWO_FOLDS, Inline())
    assert len(read(tmp_path / "cv" / "predictions.csv")) == 28


def test_a_recording_that_is_in_the_records_twice_is_refused_before_any_training(
    trainings: Trainings, tmp_path: Path, emodb_sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.records.build._remove_repeats", lambda *_: None)  # as folders were built before
    rows = [
        f"{path},{path.name[5]},{path.name[:2]},0,{end}" for path in sorted(emodb_sample.iterdir()) for end in (60, "")
    ]
    (tmp_path / "list.csv").write_text("file,label,speaker,start,end\n" + "\n".join(rows))
    assert main(["build-records", str(tmp_path / "list.csv"), "-o", str(tmp_path / "r"), "--split", "none", "-q"]) == 0
    with pytest.raises(RecordsError, match=r"holds 14 recordings twice, for example .*; build it again"):
        cross_validate(open_records(tmp_path / "r"), tmp_path / "cv", QUICK, TWO_FOLDS, Inline())
    assert not trainings.seen
    assert not (tmp_path / "cv").exists()


@pytest.mark.parametrize("error", [ImportError("no matplotlib"), ValueError("no\nfont")])
def test_pictures_that_cannot_be_drawn_stop_it_before_any_training(
    trainings: Trainings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(validation, "plot_confusion", fail)
    with pytest.raises(OutputError, match=r"cv: plots cannot be drawn \(no \w+\); install matplotlib again"):
        cross_validate(trainings.records, tmp_path / "cv", QUICK, TWO_FOLDS, Inline())
    assert not trainings.seen


def test_a_worker_gets_memory_enough(kept_records: RecordFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    for memory, workers, fitting in [(64 << 30, 4, 4), (5 << 30, 4, 2), (1 << 30, 4, 1), (64 << 30, 1, 1)]:
        monkeypatch.setattr(validation, "usable_memory", lambda memory=memory: memory)
        assert parallel_folds(kept_records, workers) == fitting
