import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.cli import main
from ser_batch.errors import OutputError, RecordsError, TrainingError
from ser_batch.models.bundles import open_bundle, weights_sha256
from ser_batch.models.recipes import RECIPES, named_recipe
from ser_batch.models.training import train
from ser_batch.records.layout import RecordFolder, open_records


def start(records: Path, out: Path, epochs: int = 4) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "ser_batch", "train", str(records), "-o", str(out), "--epochs", str(epochs), "-q"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def wait_for(path: Path, process: subprocess.Popen[bytes]) -> None:
    while not path.exists():
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_records: RecordFolder) -> Path:
    out = tmp_path_factory.mktemp("models") / "whole"
    assert start(small_records.path, out).wait() == 0
    return out


@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_killed_training_ends_with_the_same_weights(
    whole: Path, small_records: RecordFolder, tmp_path: Path, killed_after: int
) -> None:
    out = tmp_path / "killed"
    process = start(small_records.path, out)
    wait_for(out / "checkpoints" / f"epoch-{killed_after:04d}.json", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "bundle.json").exists()
    assert start(small_records.path, out).wait() == 0
    weights = [weights_sha256(open_bundle(bundle).load_network()) for bundle in (whole, out)]
    assert weights[0] == weights[1]
    assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_interrupting_keeps_what_was_finished(small_records: RecordFolder, tmp_path: Path) -> None:
    process = start(small_records.path, tmp_path / "out", epochs=50)
    wait_for(tmp_path / "out" / "checkpoints" / "epoch-0001.json", process)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=20) == 130
    assert list((tmp_path / "out" / "checkpoints").glob("epoch-*.keras"))


def test_the_bundle_is_whole_and_small(whole: Path) -> None:
    assert sorted(path.name for path in whole.iterdir()) == ["bundle.json", "history.csv", "logs", "model.keras"]
    bundle = open_bundle(whole)
    network = bundle.load_network()
    n_bytes = 4 * network.count_params()
    assert (whole / "model.keras").stat().st_size < 1.3 * n_bytes, "an optimizer was saved"
    assert bundle.training["recipe"]["name"] == "default"
    assert bundle.training["seed"] == 0
    with open(whole / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= rows[0].keys()


def test_the_logs_hold_every_epoch(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    steps = set()
    for log in (whole / "logs").iterdir():
        events = EventAccumulator(str(log)).Reload()
        steps |= {event.step for event in events.Tensors("loss")}
    assert steps == {1, 2, 3, 4}


def test_the_same_command_again_is_content(whole: Path, small_records: RecordFolder) -> None:
    result = train(small_records, whole, named_recipe("default", 4))
    assert result.was_finished


@pytest.mark.parametrize(
    ("recipe", "seed", "says"),
    [(named_recipe("default", 5), 0, "recipe"), (named_recipe("default", 4), 1, "seed was 0, now 1")],
)
def test_another_training_in_the_folder_is_refused(whole, small_records, recipe, seed: int, says: str) -> None:
    with pytest.raises(OutputError, match=f"what differs: {says}"):
        train(small_records, whole, recipe, seed)


def test_a_damaged_checkpoint_is_skipped(small_records: RecordFolder, tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "out"
    process = start(small_records.path, out)
    wait_for(out / "checkpoints" / "epoch-0002.json", process)
    process.kill()
    process.wait()
    newest = max((out / "checkpoints").glob("epoch-*.keras"))
    os.truncate(newest, 1000)
    result = train(small_records, out, named_recipe("default", 4))
    assert "checkpoint skipped" in result.notes[0]
    assert weights_sha256(result.bundle.load_network()) == weights_sha256(open_bundle(whole).load_network())


def test_checkpoints_of_an_unknown_recipe_are_not_taken_up(
    small_records: RecordFolder, tmp_path: Path, whole: Path
) -> None:
    out = tmp_path / "out"
    process = start(small_records.path, out)
    wait_for(out / "checkpoints" / "epoch-0001.json", process)
    process.kill()
    process.wait()
    (out / "checkpoints" / "run.json").unlink()
    shutil.rmtree(out / "logs", ignore_errors=True)
    assert train(small_records, out, named_recipe("seed", 1)).continued_from == 0


def test_damaged_records_are_one_line(small_records: RecordFolder, tmp_path: Path) -> None:
    for damage in ("cut", "flip"):
        copy = shutil.copytree(small_records.path, tmp_path / damage)
        shard = next(iter(sorted(copy.glob("recordings-train*"))))
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data[:-5] if damage == "cut" else data)
        with pytest.raises(RecordsError, match="verify"):
            train(open_records(copy), tmp_path / f"{damage}-out", named_recipe("seed", 1))


def test_one_label_cannot_be_learnt(small_records: RecordFolder, tmp_path: Path) -> None:
    alone = RecordFolder(small_records.path, small_records.provenance | {"labels": ["anger"]})
    with pytest.raises(TrainingError, match="only one label, anger"):
        train(alone, tmp_path / "out", RECIPES["default"])


def test_seed_and_default_recipe_differ_where_they_should() -> None:
    seed = RECIPES["seed"]
    assert (seed.learning_rate, seed.batch_size, seed.epochs, seed.schedule) == (1e-4, 16, 10, "constant")
    assert (seed.standardise, seed.dropout, seed.label_smoothing, seed.norm_momentum) == (False, 0, 0, 0.99)
    assert RECIPES["default"].standardise
    assert replace(seed, name="default") != RECIPES["default"]


def test_missing_records_are_one_line(tmp_path: Path, capfd) -> None:
    assert main(["train", str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
    assert "no such folder; make one with build-records" in capfd.readouterr().err
    assert main(["train", str(tmp_path), "-o", str(tmp_path / "out"), "--recipe", "best"]) == 1
