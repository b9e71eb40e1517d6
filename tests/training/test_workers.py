"""Training on several workers: the batches are divided, the gradients shared, and a lost worker ends all."""

import csv
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ser_batch import api
from ser_batch.cli.app import main
from ser_batch.errors import UsageError, WorkerError
from ser_batch.models.bundles import open_bundle
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import split_selection
from ser_batch.training.feature_store import FeatureStore
from ser_batch.training.features import FunctionalSet, LogMelSet
from ser_batch.training.trainer import Epoch
from ser_batch.training.workers import Share, parse_share
from tests.recipes import FULL, PLAIN, write_recipe

TWO = {"worker": ["a:1", "b:1"]}
CRNN = FULL.replace(name="crnn", network="crnn", normalise="none", l2=0.0, copies=1, epochs=6)


# --- who trains on what


@pytest.mark.parametrize(
    ("cluster", "kind", "index", "expected"),
    [
        (TWO, "worker", 0, Share(0, 2)),
        (TWO, "worker", 1, Share(1, 2)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "chief", 0, Share(0, 3)),
        ({"chief": ["a:1"], "worker": ["b:1", "c:1"]}, "worker", 1, Share(2, 3)),
        ({"worker": ["a:1"]}, "worker", 0, Share(0, 1)),
    ],
)
def test_tf_config_gives_the_share(cluster: dict[str, Any], kind: str, index: int, expected: Share) -> None:
    assert parse_share(json.dumps({"cluster": cluster, "task": {"type": kind, "index": index}})) == expected


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        json.dumps({"cluster": TWO}),
        json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 2}}),
        json.dumps({"cluster": TWO, "task": {"type": "worker", "index": "x"}}),
        json.dumps({"cluster": TWO, "task": {"type": "evaluator", "index": 0}}),
        json.dumps({"cluster": TWO | {"ps": ["c:1"]}, "task": {"type": "worker", "index": 0}}),
    ],
)
def test_other_clusters_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"TF_CONFIG: .* is no cluster of workers; expected"):
        parse_share(text)


@pytest.mark.parametrize("n_workers", [1, 2, 3, 5])
@pytest.mark.parametrize("n_examples", [1, 2, 7, 15])
def test_the_mean_over_workers_is_the_mean_over_the_batch(n_examples: int, n_workers: int) -> None:
    losses = np.random.default_rng(0).random(n_examples)
    rows, weights = zip(*(Share(k, n_workers).rows(n_examples) for k in range(n_workers)), strict=True)
    real = [row for own, weight in zip(rows, weights, strict=True) for row in own[weight > 0]]
    assert sorted(real) == list(range(n_examples))
    assert len({len(own) for own in rows}) == 1
    of_workers = [np.mean(losses[own] * weight) for own, weight in zip(rows, weights, strict=True)]
    assert np.mean(of_workers) == pytest.approx(losses.mean())


@pytest.mark.parametrize("n_workers", [2, 4])
@pytest.mark.parametrize("network", ["crnn", "functionals"])
def test_the_workers_examples_are_those_of_one_worker(
    kept_records: RecordFolder, tmp_path: Path, network: str, n_workers: int
) -> None:
    recipe = PLAIN.replace(network=network, normalise="none" if network == "crnn" else "train", batch_size=8)
    selection = split_selection(kept_records, "train")
    assert selection.n_examples % recipe.batch_size  # the last batch is smaller

    def batches(share: Share) -> list[tuple[np.ndarray, ...]]:
        store = FeatureStore(tmp_path, kept_records, recipe)
        data: Any = LogMelSet(kept_records, selection, recipe)
        if network == "functionals":
            data = FunctionalSet(store, selection, recipe)
        return [tuple(column.numpy() for column in batch) for batch in data.training_epochs(3, [1, 2], share)]

    shares = [batches(Share(k, n_workers)) for k in range(n_workers)]
    for whole, *parts in zip(batches(Share()), *shares, strict=True):
        for number, (inputs, labels, weights) in enumerate(parts):
            own = slice(number, None, n_workers)
            real = weights > 0
            width = min(inputs.shape[-1], whole[0].shape[-1])  # without padding
            np.testing.assert_array_equal(inputs[real][..., :width], whole[0][own][..., :width])
            np.testing.assert_array_equal(labels[real], whole[1][own])
        mean_weight = np.mean([weights.mean() for *_, weights in parts])
        assert mean_weight == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "config", "message"),
    [
        (["--strategy", "tpu"], None, "no such strategy; choose one of auto, single, multi-worker, mirrored"),
        (["--strategy", "mirrored"], None, "TensorFlow finds no GPU on this machine; give --strategy single"),
        (["--strategy", "multi-worker"], None, "TF_CONFIG is not set"),
        ([], "{}", "TF_CONFIG: {}: is no cluster of workers"),
    ],
)
def test_a_wrong_strategy_is_one_line(
    small_records: RecordFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    config: str | None,
    message: str,
) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if config:
        monkeypatch.setenv("TF_CONFIG", config)
    recipe = write_recipe(PLAIN, tmp_path)
    assert main(["train", str(small_records.path), "-o", str(tmp_path / "out"), "--recipe", str(recipe), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# --- two processes on this machine


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start(records: RecordFolder, out: Path, recipe: Path, *extra: Sequence[str]) -> list[subprocess.Popen[str]]:
    """Two workers; ``extra`` are further options of each."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index, options in enumerate(extra or ([], [])):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        arguments = ["train", str(records.path), "-o", str(out), "--recipe", str(recipe), "--mixed-precision", "off"]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "ser_batch", *arguments, *options],
                env=os.environ | {"TF_CONFIG": json.dumps(task)},
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                text=True,
            )
        )
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """The messages of each worker, when all have ended."""
    try:
        return [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def losses(bundle: Path, part: str = "") -> list[float]:
    with open(bundle / f"history{part}.csv", encoding="utf-8") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_two_workers_have_the_losses_of_one(kept_records: RecordFolder, tmp_path: Path) -> None:
    recipe = PLAIN.replace(name="shared", normalise="speaker", class_weight="balanced", batch_size=8, clip_norm=0.5)
    path = write_recipe(recipe, tmp_path)
    processes = start(kept_records, tmp_path / "two", path)
    messages = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], messages
    for number, text in enumerate(messages, 1):
        assert text.startswith(f"worker {number} of 2: waiting for the others\n")
        assert "7 labels, recipe shared" in text
    command = ["train", str(kept_records.path), "-o", str(tmp_path / "one"), "--recipe", str(path)]
    assert main([*command, "--mixed-precision", "off", "--quiet"]) == 0
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    two, one = (open_bundle(tmp_path / name) for name in ("two", "one"))
    for found, expected in zip(two.load_network().get_weights(), one.load_network().get_weights(), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert two.training["workers"] == 2
    assert "workers" not in one.training


@pytest.fixture(scope="module")
def whole(kept_records: RecordFolder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of two workers that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    processes = start(kept_records, folder / "out", write_recipe(CRNN, folder))
    messages = finish(processes)
    assert [process.returncode for process in processes] == [0, 0], messages
    return folder / "out"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_lost_worker_ends_all_and_all_continue(
    kept_records: RecordFolder, whole: Path, tmp_path: Path, killed: int
) -> None:
    recipe, out = write_recipe(CRNN, tmp_path), tmp_path / "out"
    processes = start(kept_records, out, recipe)
    while not any((out / "checkpoints").glob("epoch-0002.npz")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[killed].kill()
    messages = finish(processes)
    other = 1 - killed
    assert processes[killed].returncode == -signal.SIGKILL
    assert processes[other].returncode == 1, messages
    # After this line, a thread of TensorFlow may print that the connection is lost.
    assert f"error: worker {other + 1} of 2: another worker has ended or cannot be reached" in messages[other]
    assert "; start all workers again: the training continues after its last epoch\n" in messages[other]
    again = start(kept_records, out, recipe)
    messages = finish(again)
    assert [process.returncode for process in again] == [0, 0], messages
    assert all("continued after epoch" in text for text in messages)
    assert open_bundle(out).fingerprint == open_bundle(whole).fingerprint
    assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


@pytest.mark.slow
def test_workers_with_other_settings_are_refused(kept_records: RecordFolder, tmp_path: Path) -> None:
    recipe = write_recipe(PLAIN, tmp_path)
    processes = start(kept_records, tmp_path / "out", recipe, ["--seed", "1"], ["--seed", "2"])
    first, second = finish(processes)
    assert [process.returncode for process in processes] == [1, 1]
    assert "error: worker 1 of 2: others have other records or options; start all workers with the same" in first
    assert "error: worker 2 of 2: seed: not as in worker 1" in second
    assert not (tmp_path / "out" / "bundle.json").exists()


def test_several_workers_do_not_write_to_a_store(
    kept_records: RecordFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": TWO, "task": {"type": "worker", "index": 1}}))
    assert main(["train", str(kept_records.path), "-o", "s3://bucket/model"]) == 2
    expected = (
        "error: s3://bucket/model: several workers need a BUNDLE on a file system that all mount; give such a path"
    )
    assert capsys.readouterr().err == expected + "\n"


# --- one process for each GPU of this machine; processors stand for the GPUs


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.setattr("ser_batch.runtime.gpu_workers.visible_gpus", lambda: ["0", "1"])


@pytest.mark.usefixtures("two_gpus")
def test_a_process_for_each_gpu_has_the_losses_of_one(kept_records: RecordFolder, tmp_path: Path) -> None:
    path = write_recipe(PLAIN.replace(name="shared", batch_size=8), tmp_path)
    options: Any = {"recipe": str(path), "mixed_precision": "off"}
    events: list[Any] = []
    before = dict(os.environ)
    two = api.train(kept_records.path, tmp_path / "two", **options, strategy="mirrored", report=events.append)
    assert dict(os.environ) == before
    one = api.train(kept_records.path, tmp_path / "one", **options)
    np.testing.assert_allclose(losses(tmp_path / "two"), losses(tmp_path / "one"), rtol=1e-5)
    assert two.bundle.training["workers"] == 2
    assert two.notes == one.notes
    epochs = [event for event in events if isinstance(event, Epoch)]
    assert [epoch.number for epoch in epochs] == [*range(PLAIN.epochs + 1)]
    assert "val_loss" in epochs[-1].metrics  # only the first worker validates


@pytest.mark.usefixtures("two_gpus")
def test_an_error_of_a_gpus_process_is_one_line(
    kept_records: RecordFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_recipe(PLAIN.replace(batch_size=7), tmp_path)
    command = ["train", str(kept_records.path), "-o", str(tmp_path / "out"), "--recipe", str(path), "--quiet"]
    assert main([*command, "--strategy", "mirrored"]) == 1
    assert capsys.readouterr().err.startswith("error: batches of 7 examples cannot be divided among 2 workers; start")
    assert not multiprocessing.active_children()


@pytest.mark.slow
@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("killed", [0, 1])
def test_a_killed_process_of_a_gpu_ends_all_and_all_continue(
    kept_records: RecordFolder, tmp_path: Path, killed: int
) -> None:
    path = write_recipe(PLAIN.replace(epochs=40, batch_size=8), tmp_path)
    options: Any = {"recipe": str(path), "mixed_precision": "off", "strategy": "mirrored"}

    def kill(event: Any) -> None:
        if isinstance(event, Epoch) and event.number == 3:
            sorted(multiprocessing.active_children(), key=lambda child: child.pid or 0)[killed].kill()

    message = (
        r"(process of GPU [01]: the worker was killed \(SIGKILL|another worker has ended).*"
        r"continues after (the|its) last epoch"
    )
    with pytest.raises(WorkerError, match=message):
        api.train(kept_records.path, tmp_path / "out", **options, report=kill)
    assert not multiprocessing.active_children()
    continued = api.train(kept_records.path, tmp_path / "out", **options)
    assert continued.continued_from >= 3
    again = api.train(kept_records.path, tmp_path / "out", **options)
    assert again.was_finished
    assert again.bundle.fingerprint == continued.bundle.fingerprint
