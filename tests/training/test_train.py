"""Trainings that are killed, stopped, or given odd records; what they leave is whole, and always the same."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ser_batch.cli.app import main
from ser_batch.corpus.labels import label_recordings, read_label_map
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.errors import OutputError, RecordsError, TrainingError
from ser_batch.inference.examples import predict_examples
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import Bundle, Calibration, open_bundle, shipped_bundle
from ser_batch.models.calibration import fit_temperature
from ser_batch.models.heads import SMALLEST_VARIANCE
from ser_batch.models.normalisation import identity_scale
from ser_batch.records.build import build_records
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.reader import manifest_column, read_examples, split_selection
from ser_batch.runtime.local import LocalEngine
from ser_batch.training import train as training
from ser_batch.training.input_pipeline import read_batches
from ser_batch.training.recipes import RECIPES, Augmentation, CrnnOptions, OptimisationOptions, Recipe
from ser_batch.training.train import train
from ser_batch.training.trainer import Epoch
from tests.conftest import fill, made_once, write_tone
from tests.frontends import KEPT
from tests.manifests import edit_part
from tests.recipes import FULL, PLAIN, write_recipe

EPOCHS = 20
LONG = FULL.replace(name="long", epochs=EPOCHS)

# Every step of its network learns, so that everything is read and varied anew in every epoch.
CRNN = FULL.replace(
    name="crnn",
    network="seed_crnn",
    normalise="train",
    epochs=2,
    batch_size=5,
    augmentation=Augmentation(warp=0.1, time_mask=0.2, mel_mask_bands=4, gain_db=3.0, mixup=0.4),
)


def command(records: Path, out: Path, recipe: Path) -> list[str]:
    arguments = ["train", str(records), "-o", str(out), "--recipe", str(recipe)]
    return [sys.executable, "-m", "ser_batch", *arguments, "--mixed-precision", "off"]


def stopped(records: RecordFolder, out: Path, recipe: Recipe, after: int) -> None:
    """Train so many epochs, and no more."""

    def stop(epoch: training.Epoch) -> None:
        if epoch.number == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(records, out, recipe, on_epoch=stop)


def one_line(capfd: pytest.CaptureFixture[str]) -> str:
    """What went wrong; what TensorFlow's native code has to say, where another test loaded it, left out."""
    output = capfd.readouterr().err.splitlines()
    native = ("20", "\t [[", "E0000", "I0000", "W0000", "WARNING: All log messages before absl")
    (line,) = [line for line in output if line and not line.startswith(native)]
    return line


# --- in processes of their own


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, kept_records: RecordFolder) -> Path:
    """A training that nothing disturbed: folders ``bundle`` and ``recipe``."""

    def make(folder: Path) -> None:
        (folder / "recipe").mkdir()
        recipe = write_recipe(LONG, folder / "recipe")
        done = subprocess.run(command(kept_records.path, folder / "bundle", recipe), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        (folder / "output").write_text(done.stdout + done.stderr)

    return made_once(tmp_path_factory, "whole-training", make)


def interrupted(out: Path, process: subprocess.Popen[str], after: int, delay: float, signum: int) -> int:
    """Wait for an epoch's checkpoint and a moment more; then the exit code."""
    while not any(int(path.stem[6:]) >= after for path in (out / "checkpoints").glob("epoch-*.npz")):
        assert process.poll() is None, "training ended before it could be stopped"
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signum)
    return process.wait(timeout=60)


def assert_the_same(out: Path, whole: Path) -> None:
    assert open_bundle(out).fingerprint == open_bundle(whole).fingerprint
    assert open_bundle(out).load_network()  # its weights are those of the fingerprint
    assert (out / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_training_that_is_stopped_again_and_again_ends_with_the_same_bundle(
    whole: Path, kept_records: RecordFolder, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    start = command(kept_records.path, out, whole / "recipe" / "long.toml")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    environment = os.environ | {"TMPDIR": str(scratch)}
    chance = random.Random()
    delays = [chance.uniform(0, 0.1) for _ in range(3)]
    stops = zip((2, 8, 14), delays, (signal.SIGKILL, signal.SIGINT, signal.SIGKILL), strict=True)
    for after, delay, signum in stops:
        with subprocess.Popen(start, stderr=subprocess.PIPE, text=True, env=environment) as process:
            code = interrupted(out, process, after, delay, signum)
            output = process.stderr.read() if process.stderr else ""
        assert not (out / "bundle.json").exists(), delays
        assert list((out / "checkpoints").glob("epoch-*.npz"))
        if signum == signal.SIGKILL:
            assert code == -signal.SIGKILL, (delays, output)
        else:
            assert (code, output) == (130, "interrupted; to go on, run the same command again, without --restart\n")
    done = subprocess.run(start, capture_output=True, text=True)
    assert done.returncode == 0, (delays, done.stderr)
    assert "continued after epoch" in done.stderr
    assert_the_same(out, whole / "bundle")
    assert not list(scratch.iterdir())


@pytest.mark.slow
def test_kills_at_any_moment_change_nothing(whole: Path, kept_records: RecordFolder, tmp_path: Path) -> None:
    start = command(kept_records.path, tmp_path / "out", whole / "recipe" / "long.toml")
    chance = random.Random()
    delays = []
    for _ in range(12):
        process = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        delays.append(chance.uniform(0, 12))
        try:
            process.wait(timeout=delays[-1])
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    assert subprocess.run(start, capture_output=True).returncode == 0, delays
    assert_the_same(tmp_path / "out", whole / "bundle")


# Two parts, both with all that may be random.
TWO_PARTS = FULL.replace(
    name="two-parts",
    epochs=2,
    crnn=CrnnOptions(
        **{name: value for name, value in dict(FULL).items() if name in OptimisationOptions.model_fields},
        share=0.4,
        dropout=0.2,
        norm_momentum=0.9,
        augmentation=FULL.augmentation,
    ),
)


@pytest.fixture(scope="module")
def two_parts(tmp_path_factory: pytest.TempPathFactory, kept_records: RecordFolder) -> Bundle:
    """A training of two parts that nothing disturbed."""
    return open_bundle(
        made_once(tmp_path_factory, "two-parts", lambda folder: train(kept_records, folder / "bundle", TWO_PARTS))
        / "bundle"
    )


@pytest.mark.slow
def test_a_network_of_two_parts_continues_in_the_second(
    two_parts: Bundle, kept_records: RecordFolder, tmp_path: Path
) -> None:
    seen: list[Epoch] = []

    def stop(epoch: Epoch) -> None:
        seen.append(epoch)
        if epoch.part == "crnn" and epoch.number:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(kept_records, tmp_path / "out", TWO_PARTS, on_epoch=stop)
    counted = [(epoch.part, epoch.number, bool(epoch.metrics)) for epoch in seen]
    assert counted == [("", 0, False), ("", 1, True), ("", 2, True), ("crnn", 0, False), ("crnn", 1, True)]
    result = train(kept_records, tmp_path / "out", TWO_PARTS)
    assert result.continued_from == 3
    assert result.bundle.fingerprint == two_parts.fingerprint
    for name in ("history.csv", "history-crnn.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (two_parts.path / name).read_bytes()


def test_the_logits_of_two_parts_are_averaged(two_parts: Bundle, kept_records: RecordFolder, tmp_path: Path) -> None:
    """The head in NumPy and the network in Keras agree, and the CRNN counts as much as its share."""
    bundle = two_parts
    network, head, encoder = bundle.load_network(), bundle.load_arrays().head, bundle.load_encoder()
    features = train(kept_records, tmp_path / "one", TWO_PARTS.replace(crnn=None)).bundle.load_arrays().head
    n_functionals = len(features.mean)
    np.testing.assert_allclose(head.kernel[:n_functionals], 0.6 * features.kernel, rtol=1e-5, atol=1e-7)
    assert len(head.mean) == n_functionals + 192
    scale = identity_scale(head.reference)[None]
    for example in read_examples(kept_records, split_selection(kept_records, "test")):
        embedding = encoder(example.log_mel)[None]
        expected = network([example.log_mel[None], scale]).numpy()[0]
        np.testing.assert_allclose(head.probabilities(head.features(embedding))[0], expected, atol=1e-4)


def test_the_bundle_is_whole_and_small(whole: Path) -> None:
    out = whole / "bundle"
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        ".lock",
        "bundle.json",
        "head.npz",
        "history.csv",
        "logs",
        "model.keras",
        "model.tflite",
        "novelty.npz",
        "validation.csv",
        "voices.npz",
    ]
    bundle = open_bundle(out)
    assert bundle.load_network().count_params() == bundle.training["parameters"]
    assert bundle.training["recipe"]["name"] == "long"
    assert bundle.training["seed"] == 0
    assert bundle.adaptations == ("none", "batch", "speakers", "voices")
    with open(out / "history.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == [str(number) for number in range(1, EPOCHS + 1)]
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} <= rows[0].keys()
    assert bundle.training["last_epoch"]["loss"] == float(rows[-1]["loss"])


def test_the_command_prints_one_line(whole: Path) -> None:
    (line,) = (whole / "output").read_text().splitlines()
    assert line.startswith(f"{whole / 'bundle'}: 7 labels, recipe long, 20 epochs, ")


def test_the_logs_hold_every_epoch_once(whole: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator

    with open(whole / "bundle" / "history.csv", newline="") as file:
        history = {int(row["epoch"]): row for row in csv.DictReader(file)}
    seen: list[int] = []
    logs = list((whole / "bundle" / "logs").iterdir())
    assert len(logs) == 1
    for log in logs:
        events = EventAccumulator(str(log), {TENSORS: 0}).Reload()  # 0: none left out
        for name in ("loss", "val_accuracy"):
            for event in events.Tensors(name):
                logged = float(np.frombuffer(event.tensor_proto.tensor_content or b"", "f4").sum()) or float(
                    sum(event.tensor_proto.float_val)
                )
                assert logged == pytest.approx(float(history[event.step][name]), rel=1e-6)
                seen.append(event.step)
    assert sorted(seen) == sorted([*history] * 2)


# --- in this process


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, kept_records: RecordFolder) -> Bundle:
    """Three epochs without anything random but the order."""
    folder = made_once(tmp_path_factory, "plain-training", lambda folder: train(kept_records, folder / "bundle", PLAIN))
    return open_bundle(folder / "bundle")


@pytest.fixture
def unfinished(tmp_path_factory: pytest.TempPathFactory, kept_records: RecordFolder, tmp_path: Path) -> Path:
    """The same, stopped after two."""
    folder = made_once(
        tmp_path_factory, "stopped-training", lambda folder: stopped(kept_records, folder / "bundle", PLAIN, 2)
    )
    return Path(shutil.copytree(folder / "bundle", tmp_path / "bundle"))


def test_the_same_command_again_is_content(plain: Bundle, kept_records: RecordFolder) -> None:
    before = {path: path.stat().st_mtime_ns for path in plain.path.iterdir()}
    assert train(kept_records, plain.path, PLAIN).was_finished
    assert {path: path.stat().st_mtime_ns for path in plain.path.iterdir()} == before


def test_a_finished_training_can_be_begun_anew(kept_records: RecordFolder, tmp_path: Path) -> None:
    train(kept_records, tmp_path / "out", PLAIN.replace(epochs=1))
    again = train(kept_records, tmp_path / "out", PLAIN.replace(epochs=2), restart=True)
    assert (again.was_finished, again.continued_from) == (False, 0)
    assert again.bundle.training["recipe"]["epochs"] == 2


@pytest.mark.parametrize("name", ["model.keras", "model.tflite", "novelty.npz", "head.npz"])
def test_a_finished_bundle_without_a_part_is_not_called_finished(
    plain: Bundle, kept_records: RecordFolder, tmp_path: Path, name: str
) -> None:
    out = Path(shutil.copytree(plain.path, tmp_path / "out"))
    (out / name).unlink()
    with pytest.raises(OutputError, match=f"{out / name}: .*give --restart"):
        train(kept_records, out, PLAIN)


def test_what_cannot_be_read_of_an_unfinished_training_is_named(unfinished: Path, kept_records: RecordFolder) -> None:
    (unfinished / "checkpoints" / "identity.json").write_text("")
    with pytest.raises(OutputError, match=r"identity\.json: is damaged .*give --restart"):
        train(kept_records, unfinished, PLAIN)


def test_by_speaker_without_speakers_is_noted(tmp_path: Path, kept_records: RecordFolder) -> None:
    unnamed = Path(shutil.copytree(kept_records.path, tmp_path / "unnamed"))
    for shard in kept_records.shards():
        edit_part(unnamed, shard.name, lambda rows: [row | {"speaker": ""} for row in rows])
    result = train(open_records(unnamed), tmp_path / "out", PLAIN.replace(epochs=1, normalise="speaker"))
    assert ["the records name no speakers" in note for note in result.notes] == [True]


def cut_newest(checkpoints: Path) -> int:
    os.truncate(checkpoints / "epoch-0002.npz", 1000)
    return 1


def empty_both(checkpoints: Path) -> int:
    for path in checkpoints.glob("epoch-*.npz"):
        os.truncate(path, 0)
    return 0


def swap_network(checkpoints: Path) -> int:
    np.savez(checkpoints / "epoch-0002.npz", v0=np.zeros(3), history=np.array(json.dumps([{"loss": 1.0}])))
    return 1


@pytest.mark.parametrize("damage", [cut_newest, empty_both, swap_network])
def test_a_checkpoint_that_cannot_be_used_is_skipped_and_noted(
    plain: Bundle, unfinished: Path, kept_records: RecordFolder, damage: Callable[[Path], int]
) -> None:
    taken_up = damage(unfinished / "checkpoints")
    result = train(kept_records, unfinished, PLAIN)
    assert result.continued_from == taken_up
    assert len(result.notes) == 2 - taken_up
    for note in result.notes:
        assert note.startswith(f"checkpoint skipped: {unfinished / 'checkpoints'}")
        assert "\n" not in note
    assert_the_same(unfinished, plain.path)


def test_checkpoints_of_an_unknown_recipe_are_not_taken_up(unfinished: Path, kept_records: RecordFolder) -> None:
    (unfinished / "checkpoints" / "identity.json").unlink()
    shutil.rmtree(unfinished / "logs")
    assert train(kept_records, unfinished, PLAIN.replace(epochs=1)).continued_from == 0


@pytest.mark.slow
def test_a_network_that_learns_from_log_mels_continues_too(small_records: RecordFolder, tmp_path: Path) -> None:
    undisturbed = train(small_records, tmp_path / "whole", CRNN)
    assert undisturbed.continued_from == 0
    stopped(small_records, tmp_path / "out", CRNN, 1)
    assert train(small_records, tmp_path / "out", CRNN).continued_from == 1
    assert_the_same(tmp_path / "out", tmp_path / "whole")


@pytest.mark.parametrize(
    ("recipe", "seed", "message"),
    [
        (PLAIN.replace(epochs=5), 0, "recipe epochs was 3, now 5"),
        (PLAIN.replace(augmentation=Augmentation(warp=0.1)), 0, "recipe augmentation warp was 0.0, now 0.1"),
        (PLAIN, 1, "seed was 0, now 1"),
    ],
)
def test_another_training_in_the_folder_is_refused(
    plain: Bundle, unfinished: Path, kept_records: RecordFolder, recipe: Recipe, seed: int, message: str
) -> None:
    for folder in (plain.path, unfinished):
        with pytest.raises(
            OutputError, match=rf"made from other inputs or settings; differences: {message}.*--restart"
        ):
            train(kept_records, folder, recipe, seed)


def test_records_that_changed_are_refused(plain: Bundle, unfinished: Path, kept_records: RecordFolder) -> None:
    changed = RecordFolder(kept_records.path, kept_records.provenance.model_copy(update={"fingerprint": "0" * 64}))
    for folder in (plain.path, unfinished):
        with pytest.raises(OutputError, match="differences: records was"):
            train(changed, folder, PLAIN)


@pytest.mark.parametrize("free_kib", [60, 900])
def test_a_full_disk_is_one_line_and_room_lets_it_finish(
    plain: Bundle, kept_records: RecordFolder, disk: Path, tmp_path: Path, capfd, free_kib: int
) -> None:
    ballast = fill(disk, free_kib)
    arguments = ["train", str(kept_records.path), "-o", str(disk / "out"), "--mixed-precision", "off", "-q"]
    arguments += ["--recipe", str(write_recipe(PLAIN, tmp_path))]
    assert main(arguments) == 1
    line = one_line(capfd)
    assert line.startswith(f"error: {disk / 'out'}")
    assert "No space left on device" in line
    assert not (disk / "out" / "bundle.json").exists()
    ballast.unlink()
    assert main(arguments) == 0
    assert_the_same(disk / "out", plain.path)


def test_logs_that_cannot_be_written_are_one_line(kept_records: RecordFolder, tmp_path: Path, capfd) -> None:
    out = tmp_path / "out"
    stopped(kept_records, out, PLAIN, after=1)
    shutil.rmtree(out / "logs")
    (out / "logs").write_text("no folder")
    arguments = ["train", str(kept_records.path), "-o", str(out), "--mixed-precision", "off", "-q"]
    assert main([*arguments, "--recipe", str(write_recipe(PLAIN, tmp_path))]) == 1
    assert one_line(capfd).startswith(f"error: {out / 'logs'}: ")


def test_records_that_hold_less_than_they_list_are_refused(small_records: RecordFolder, tmp_path: Path) -> None:
    """A network that learns from a stream would see the first epochs again, in other batches."""
    shards = small_records.shards()
    more = tuple(shard.model_copy(update={"examples": shard.examples + 9}) for shard in shards)
    provenance = small_records.provenance.model_copy(update={"shards": more})
    less = replace(small_records, provenance=provenance)
    with pytest.raises(RecordsError, match="holds fewer examples than its manifest lists; run ser-batch verify"):
        train(less, tmp_path / "out", PLAIN.replace(network="seed_crnn", epochs=2))


# --- what is learnt from


def test_the_temperature_is_that_of_the_validation_side(kept_records: RecordFolder, tmp_path: Path) -> None:
    plain = train(kept_records, tmp_path / "out", PLAIN.replace(epochs=1)).bundle  # not all its predictions are right
    side = split_selection(kept_records, "validation")
    uncalibrated = replace(Classifier.of(plain), calibration=Calibration(temperature=1.0))
    raw = predict_examples(plain, uncalibrated, kept_records, side)
    shown = [one.prediction.probabilities for one in raw], [one.label for one in raw]
    expected = fit_temperature(*shown, [one.speaker for one in raw])
    assert abs(np.log(expected)) < abs(np.log(fit_temperature(*shown)))  # of one speaker: nearer to 1
    assert plain.temperature == pytest.approx(expected, rel=1e-3)
    assert plain.temperature != 1.0
    assert plain.content.fitted_on == len(raw)
    assert not plain.uncalibrated


def test_adapted_predictions_have_a_temperature_of_their_own(kept_records: RecordFolder, tmp_path: Path) -> None:
    bundle = train(kept_records, tmp_path / "out", PLAIN.replace(epochs=1, normalise="speaker")).bundle
    side = split_selection(kept_records, "validation")
    uncalibrated = replace(Classifier.of(bundle), calibration=Calibration(temperature=1.0))
    raw = predict_examples(bundle, uncalibrated, kept_records, side, "speakers")
    shown = [one.prediction.probabilities for one in raw], [one.label for one in raw]
    expected = fit_temperature(*shown, [one.speaker for one in raw])
    assert bundle.content.calibration.adapted_temperature == pytest.approx(expected, rel=0.3)
    assert bundle.content.calibration.adapted_temperature != bundle.temperature


def test_the_loss_is_weighed_by_label(small_records: RecordFolder, tmp_path: Path) -> None:
    still = PLAIN.replace(network="seed_crnn", epochs=1, batch_size=64, learning_rate=0.0, class_weight="balanced")
    result = train(small_records, tmp_path / "out", still)
    (batch,) = read_batches(small_records, split_selection(small_records, "train"), 64)
    probabilities = np.asarray(result.bundle.load_network()(batch.log_mels, training=True))
    counts = np.bincount(batch.labels, minlength=7)
    weights = (len(batch.labels) / (np.count_nonzero(counts) * np.maximum(counts, 1)))[batch.labels]
    losses = -np.log(probabilities[np.arange(len(batch.labels)), batch.labels])
    assert result.bundle.training["last_epoch"]["loss"] == pytest.approx((weights * losses).mean(), rel=1e-3)
    assert abs((weights * losses).mean() - losses.mean()) > 5e-3


def test_speakers_are_told_from_the_training_side_alone(whole: Path, kept_records: RecordFolder) -> None:
    from ser_batch.models.networks.families import encoder_of
    from ser_batch.models.normalisation import within_speakers
    from ser_batch.training.feature_store import traced

    bundle = open_bundle(whole / "bundle")
    side = split_selection(kept_records, "train")
    extract = traced(encoder_of(bundle.load_network()))
    features = np.concatenate([extract(batch.log_mels).numpy() for batch in read_batches(kept_records, side, 32)])
    expected = within_speakers(features, manifest_column(kept_records, side, "speaker").to_pylist())
    found = bundle.load_arrays().head.reference
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(found.variance, expected.variance, rtol=1e-2, atol=1e-3)


def test_bfloat16_learns_nearly_the_same_and_is_saved_as_float32(
    plain: Bundle, kept_records: RecordFolder, tmp_path: Path
) -> None:
    half = train(kept_records, tmp_path / "half", PLAIN, precision="mixed_bfloat16").bundle
    weights, exact = half.load_network().get_weights(), plain.load_network().get_weights()
    assert all(one.dtype == np.float32 for one in weights)
    differences = [np.abs(one - other).max() for one, other in zip(weights, exact, strict=True)]
    assert 0 < max(differences) < 0.1
    with pytest.raises(OutputError, match='precision was "mixed_bfloat16", now "float32"'):
        train(kept_records, tmp_path / "half", PLAIN)


# --- odd records


def build(source: Path, out: Path, *options: str) -> RecordFolder:
    assert main(["build-records", str(source), "-o", str(out), "-q", "-j", "2", *options]) == 0
    return open_records(out)


def tones(folder: Path, rows: list[str]) -> Path:
    """A list of short tones, each row ``label,speaker,split``."""
    lines = ["file,label,speaker,split"]
    for number, row in enumerate(rows):
        write_tone(folder / f"{number}.wav", secs=0.2 + 0.01 * (number % 7), level=0.1 + 0.01 * (number % 80))
        lines.append(f"{number}.wav,{row}")
    (folder / "list.csv").write_text("\n".join(lines))
    return folder / "list.csv"


def test_a_temperature_that_cannot_be_fitted_is_recorded(
    kept_records: RecordFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ser_batch.training.packaging.fit_temperature", lambda *_: None)  # all are right
    bundle = train(kept_records, tmp_path / "out", PLAIN.replace(epochs=1)).bundle
    n_examples = kept_records.n_examples("validation")
    assert (bundle.temperature, bundle.content.fitted_on) == (1.0, None)
    assert bundle.uncalibrated == f"not calibrated: all {n_examples} validation examples are predicted correctly"


@pytest.mark.parametrize(("temperature", "fitted_on"), [(0.5, 2), (1.0, None)])
def test_a_bundle_of_an_earlier_version_tells_by_its_temperature(
    plain: Bundle, tmp_path: Path, temperature: float, fitted_on: int | None
) -> None:
    content = json.loads((plain.path / "bundle.json").read_text())
    assert content["training"]["n_examples"]["validation"] == 2
    content["calibration"] = {"temperature": temperature}
    (tmp_path / "bundle.json").write_text(json.dumps(content))
    assert open_bundle(tmp_path).content.fitted_on == fitted_on


def test_twelve_recordings_of_one_speaker_train_without_a_class(tmp_path: Path, capfd) -> None:
    rows = [*["calm,ann,train", "angry,ann,train"] * 4, "glad,ann,test", "calm,ann,test", "calm,ann,test", "calm,,test"]
    records = build(tones(tmp_path / "in", rows), tmp_path / "records", "--front-end", "speech")
    assert records.n_examples("train") == 8
    recipe = FULL.replace(front_end="speech", epochs=1)
    arguments = [str(records.path), "-o", str(tmp_path / "out"), "--recipe", str(write_recipe(recipe, tmp_path))]
    assert main(["train", *arguments]) == 0
    bundle = open_bundle(tmp_path / "out")
    assert bundle.labels == ("angry", "calm", "glad")
    assert (bundle.temperature, bundle.content.fitted_on) == (1.0, None)
    output = capfd.readouterr().err
    assert main(["train", *arguments]) == 0  # finished before
    for lines in (output, capfd.readouterr().err):
        assert "warning: not calibrated: no validation recordings; its probabilities may be" in lines
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "temperature 1.000, not calibrated: no validation recordings" in capfd.readouterr().out
    assert bundle.training["n_examples"] == {"train": 8, "validation": 0}
    with open(tmp_path / "out" / "history.csv", newline="") as file:
        assert next(csv.reader(file)) == ["epoch", "accuracy", "loss"]
    evaluated = predict_examples(bundle, Classifier.of(bundle), records, split_selection(records, "test"))
    assert len(evaluated) == 4
    assert all(sum(one.prediction.probabilities) == pytest.approx(1, abs=1e-5) for one in evaluated)
    assert main(["evaluate", str(tmp_path / "out"), str(records.path), "-o", str(tmp_path / "eval")]) == 0


def test_two_hundred_classes_train(tmp_path: Path) -> None:
    source = tones(tmp_path / "in", [f"class {number:03d},," for number in range(200)] * 2)
    records = build(source, tmp_path / "records", "--split", "none", "--front-end", "speech")
    recipe = PLAIN.replace(front_end="speech", epochs=1, batch_size=64, class_weight="balanced")
    bundle = train(records, tmp_path / "out", recipe).bundle
    assert len(bundle.labels) == 200
    assert bundle.load_network().output_shape == (None, 200)
    assert np.isfinite(list(bundle.training["last_epoch"].values())).all()


def test_records_for_another_recipe_are_refused_with_the_way_out(
    kept_records: RecordFolder, tmp_path: Path, capfd
) -> None:
    for name in ("default", "seed"):
        front_end = RECIPES[name].front_end
        assert main(["train", str(kept_records.path), "-o", str(tmp_path / "out"), "--recipe", name]) == 1
        assert one_line(capfd) == (
            f"error: {kept_records.path}: made with the front end custom, and the recipe {name} is for {front_end}; "
            f"build the records with --front-end {front_end}, or choose another --recipe"
        )
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_does_not_fit_its_network_is_refused(kept_records: RecordFolder, tmp_path: Path) -> None:
    for recipe, message in (
        (PLAIN.replace(network="seed_crnn"), "takes log-mels of one length"),
        (PLAIN.replace(normalise="none"), "needs a normalisation"),
        (PLAIN.replace(network="seed_crnn", normalise="speaker"), "cannot be normalised by speaker"),
    ):
        with pytest.raises(TrainingError, match=message):
            train(kept_records, tmp_path / "out", recipe)
    train(kept_records, tmp_path / "out", PLAIN.replace(epochs=1))  # nothing is in its way


def test_an_unknown_precision_is_wrong_usage(kept_records: RecordFolder, tmp_path: Path, capfd) -> None:
    arguments = ["train", str(kept_records.path), "-o", str(tmp_path / "out"), "--mixed-precision", "half"]
    assert main(arguments) == 2
    assert one_line(capfd) == "error: --mixed-precision half: choose one of auto, off"


def test_damaged_records_are_one_line(kept_records: RecordFolder, tmp_path: Path) -> None:
    for damage in ("cut", "flip"):
        copy = shutil.copytree(kept_records.path, tmp_path / damage)
        shard = next(iter(sorted(copy.glob("recordings-train*"))))
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data[:-5] if damage == "cut" else data)
        with pytest.raises(RecordsError, match="verify"):
            train(open_records(copy), tmp_path / f"{damage}-out", PLAIN)


def test_one_label_cannot_be_learnt(kept_records: RecordFolder, tmp_path: Path) -> None:
    alone = RecordFolder(kept_records.path, kept_records.provenance.model_copy(update={"labels": ("anger",)}))
    with pytest.raises(TrainingError, match="only one label, anger"):
        train(alone, tmp_path / "out", PLAIN)


def test_nothing_to_train_on_is_one_line(tmp_path: Path) -> None:
    source = tones(tmp_path / "in", ["calm,a,test", "angry,b,test"])
    records = build(source, tmp_path / "records", "--front-end", "speech")
    with pytest.raises(RecordsError, match="no examples in the split 'train'; it has test"):
        train(records, tmp_path / "out", PLAIN.replace(front_end="speech"))
    assert not (tmp_path / "out").exists()


def test_missing_records_are_one_line(tmp_path: Path, capfd) -> None:
    assert main(["train", str(tmp_path / "absent"), "-o", str(tmp_path / "out")]) == 1
    assert "no such folder; make one with build-records" in capfd.readouterr().err


# --- starting from a bundle


def test_a_training_starts_from_a_bundle(two_parts: Bundle, kept_records: RecordFolder, tmp_path: Path) -> None:
    """Weights of known labels and the scale are taken; with no step, the new network is the old one."""
    before = two_parts
    still = TWO_PARTS.replace(learning_rate=0.0, crnn=TWO_PARTS.crnn.replace(learning_rate=0.0))  # type: ignore[union-attr]
    result = train(kept_records, tmp_path / "after", still, init=before)
    assert f"starts from the softmax layer and CRNN of {before.path} ({before.short_fingerprint})" in result.notes
    old, new = before.load_arrays().head, result.bundle.load_arrays().head
    n_functionals = len(old.kernel) - 192
    np.testing.assert_allclose(new.kernel[:n_functionals], old.kernel[:n_functionals], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(new.bias, old.bias, rtol=1e-4, atol=1e-6)
    # The CRNN's batch normalisation has new averages, and its features a new scale.
    rows = slice(n_functionals, None)
    of_crnn = [head.kernel[rows] / np.sqrt(head.variance[rows] + SMALLEST_VARIANCE)[:, None] for head in (old, new)]
    np.testing.assert_allclose(*of_crnn, rtol=1e-3, atol=1e-5)
    convolutions = [
        bundle.load_network().get_layer("crnn").get_layer("conv_4").get_weights()[0]
        for bundle in (before, result.bundle)
    ]
    np.testing.assert_array_equal(*convolutions)
    with pytest.raises(OutputError, match="init was"):
        train(kept_records, tmp_path / "after", still)


def test_labels_that_a_bundle_does_not_have_are_new(
    kept_records: RecordFolder, tmp_path: Path, emodb_sample: Path
) -> None:
    before = train(kept_records, tmp_path / "before", PLAIN).bundle
    rows = [f"{path},{'awe' if path.name[5] == 'W' else path.name[5]},x" for path in sorted(emodb_sample.iterdir())]
    (tmp_path / "list.csv").write_text("\n".join(["file,label,speaker", *rows]))
    (tmp_path / "map.csv").write_text("from,to\nF,happiness\nL,boredom\n")
    label_map = read_label_map(tmp_path / "map.csv")
    labelled = label_recordings(list_source(str(tmp_path / "list.csv")), "auto", label_map)
    with LocalEngine(2) as engine:
        records = build_records(
            plan_build(labelled, BuildOptions(KEPT, SplitPlan("none"))), tmp_path / "r", engine
        ).records
    still = PLAIN.replace(learning_rate=0.0, epochs=1)
    result = train(records, tmp_path / "after", still, init=before)
    assert any("new labels: A, E, N, T, awe" in note for note in result.notes)
    old, new = before.load_arrays().head, result.bundle.load_arrays().head
    for label in records.labels:
        column = new.kernel[:, records.labels.index(label)]
        expected = old.kernel[:, before.labels.index(label)] if label in before.labels else 0.0
        np.testing.assert_allclose(column, expected, rtol=1e-4, atol=1e-6)


def test_a_bundle_that_does_not_fit_is_no_start(
    kept_records: RecordFolder, small_records: RecordFolder, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match="has another front end than"):
        train(kept_records, tmp_path / "out", PLAIN, init=shipped_bundle())
    seed = train(small_records, tmp_path / "seed", PLAIN.replace(network="seed_crnn", epochs=1)).bundle
    with pytest.raises(TrainingError, match="its network is seed_crnn and the recipe's is functionals"):
        train(small_records, tmp_path / "out", PLAIN, init=seed)
    assert not (tmp_path / "out").exists()
