import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_batch.cli import main
from ser_batch.errors import OutputError, RecordsError, TrainingError
from ser_batch.models.augment import Augmentation
from ser_batch.models.bundles import open_bundle, weights_sha256
from ser_batch.models.recipes import RECIPES
from ser_batch.models.training import train
from ser_batch.records.layout import RecordFolder, open_records

EPOCHS = 4
TINY = replace(
    RECIPES["default"],
    name="tiny",
    front_end="custom",
    epochs=EPOCHS,
    copies=2,
    batch_size=4,
    normalise="speaker",
    augmentation=Augmentation(warp=0.1, tempo=0.1, time_mask=0.1, gain_db=3.0),
)
TINY_TOML = """
base = "default"
front_end = "custom"
epochs = 4
copies = 2
batch_size = 4
normalise = "speaker"
[augmentation]
warp = 0.1
warp_share = 1.0
tempo = 0.1
time_mask = 0.1
gain_db = 3.0
"""
CRNN = replace(RECIPES["seed"], front_end="custom", epochs=1)


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(TINY_TOML, encoding="utf-8")
    return path


def start(records: RecordFolder, out: Path, recipe: Path, epochs: int = EPOCHS) -> subprocess.Popen[bytes]:
    command = ["train", str(records.path), "-o", str(out), "--recipe", str(recipe), "--epochs", str(epochs), "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "ser_batch", *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def kill_after(path: Path, process: subprocess.Popen[bytes], number: int = signal.SIGKILL) -> int:
    while not path.exists():
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(number)
    return process.wait(timeout=20)


def weights(bundle: Path) -> str:
    return weights_sha256(open_bundle(bundle).load_network())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, coarse_records: RecordFolder, recipe_file: Path) -> Path:
    out = tmp_path_factory.mktemp("models") / "whole"
    assert start(coarse_records, out, recipe_file).wait() == 0
    return out


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_training_ends_with_the_same_weights(
    whole: Path, coarse_records: RecordFolder, recipe_file: Path, tmp_path: Path, killed_after: int
) -> None:
    out = tmp_path / "killed"
    kill_after(out / "checkpoints" / f"epoch-{killed_after:04d}.npz", start(coarse_records, out, recipe_file))
    assert not (out / "bundle.json").exists()
    assert start(coarse_records, out, recipe_file).wait() == 0
    assert weights(out) == weights(whole)
    assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    assert (out / "novelty.npz").read_bytes() == (whole / "novelty.npz").read_bytes()


def test_a_crnn_goes_on_to_the_same_weights(small_records: RecordFolder, tmp_path: Path) -> None:
    recipe = replace(CRNN, epochs=2, averaging=0.9, dropout=0.3)
    with pytest.raises(KeyboardInterrupt):
        train(small_records, tmp_path / "cut", recipe, on_epoch=interrupt)
    resumed = train(small_records, tmp_path / "cut", recipe)
    assert resumed.continued_from == 1
    straight = train(small_records, tmp_path / "straight", recipe)
    assert weights(tmp_path / "cut") == weights_sha256(straight.bundle.load_network())


def interrupt(epoch: object) -> None:
    raise KeyboardInterrupt


def test_interrupting_keeps_what_was_finished(coarse_records: RecordFolder, recipe_file: Path, tmp_path: Path) -> None:
    process = start(coarse_records, tmp_path / "out", recipe_file, epochs=500)
    checkpoints = tmp_path / "out" / "checkpoints"
    assert kill_after(checkpoints / "epoch-0001.npz", process, signal.SIGINT) == 130
    assert list(checkpoints.glob("epoch-*.npz"))


def test_the_bundle_is_whole_and_small(whole: Path) -> None:
    names = ["bundle.json", "history.csv", "logs", "model.keras", "novelty.npz"]
    assert sorted(path.name for path in whole.iterdir()) == names
    bundle = open_bundle(whole)
    assert (whole / "model.keras").stat().st_size < 2 << 20, "an optimizer was saved"
    assert bundle.training["recipe"]["name"] == "tiny"
    assert bundle.training["seed"] == 0
    assert bundle.content.speaker_reference is not None
    with open(whole / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "accuracy"} <= rows[0].keys()


def test_the_logs_hold_every_epoch(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = set()
    for log in (whole / "logs").iterdir():
        events = EventAccumulator(str(log)).Reload()
        steps |= {event.step for event in events.Tensors("loss")}
    assert steps == {1, 2, 3, 4}


def test_the_same_command_again_is_content(whole: Path, coarse_records: RecordFolder) -> None:
    result = train(coarse_records, whole, replace(TINY, augmentation=replace(TINY.augmentation)))
    assert result.was_finished


@pytest.mark.parametrize(
    ("recipe", "seed", "says"), [(replace(TINY, epochs=5), 0, "recipe"), (TINY, 1, "seed was 0, now 1")]
)
def test_another_training_in_the_folder_is_refused(whole, coarse_records, recipe, seed: int, says: str) -> None:
    with pytest.raises(OutputError, match=f"what differs: {says}"):
        train(coarse_records, whole, recipe, seed)


def test_a_damaged_checkpoint_is_skipped(
    coarse_records: RecordFolder, recipe_file: Path, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    kill_after(out / "checkpoints" / "epoch-0002.npz", start(coarse_records, out, recipe_file))
    newest = max((out / "checkpoints").glob("epoch-*.npz"))
    os.truncate(newest, 1000)
    result = train(coarse_records, out, TINY)
    assert "checkpoint skipped" in result.notes[0]
    assert weights(out) == weights(whole)


def test_damaged_records_are_one_line(small_records: RecordFolder, tmp_path: Path) -> None:
    for damage in ("cut", "flip"):
        copy = shutil.copytree(small_records.path, tmp_path / damage)
        shard = next(iter(sorted(copy.glob("recordings-train*"))))
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data[:-5] if damage == "cut" else data)
        with pytest.raises(RecordsError, match="verify"):
            train(open_records(copy), tmp_path / f"{damage}-out", CRNN)


def test_one_label_cannot_be_learnt(small_records: RecordFolder, tmp_path: Path) -> None:
    alone = RecordFolder(small_records.path, small_records.provenance | {"labels": ["anger"]})
    with pytest.raises(TrainingError, match="only one label, anger"):
        train(alone, tmp_path / "out", CRNN)


def test_a_recipe_for_another_front_end_is_refused(small_records: RecordFolder, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="made with the front end custom, and the recipe default is for speech"):
        train(small_records, tmp_path / "out", RECIPES["default"])


def test_rare_labels_count_more(coarse_records: RecordFolder, tmp_path: Path) -> None:
    losses = {}
    for how in ("none", "balanced"):
        recipe = replace(TINY, epochs=1, normalise="train", class_weight=how)
        result = train(coarse_records, tmp_path / how, recipe)
        losses[how] = result.bundle.training["last_epoch"]["loss"]
    assert np.isfinite(losses["balanced"])
    assert losses["balanced"] != losses["none"]


def test_the_seed_recipe_is_the_published_one() -> None:
    seed = RECIPES["seed"]
    assert (seed.learning_rate, seed.batch_size, seed.epochs, seed.schedule) == (1e-4, 16, 10, "constant")
    assert (seed.normalise, seed.dropout, seed.label_smoothing, seed.norm_momentum) == ("none", 0, 0, 0.99)
    assert (seed.weight_decay, seed.clip_norm, seed.averaging, seed.class_weight) == (0, 0, 0, "none")
    assert seed.augmentation == Augmentation()
    assert seed.front_end == "seed"


def test_missing_records_are_one_line(tmp_path: Path, capfd) -> None:
    assert main(["train", str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
    assert "no such folder; make one with build-records" in capfd.readouterr().err
    assert main(["train", str(tmp_path), "-o", str(tmp_path / "out"), "--recipe", "best"]) == 2
