"""From record folder to bundle, with a checkpoint after every epoch.

Every random choice is a function of the seed and the epoch (initial weights, order of examples, dropout),
and TensorFlow's operations are deterministic. So a training that was killed and started again ends with the
same weights as one that was not.
"""

from __future__ import annotations

import json
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import __version__
from ser_batch.errors import BundleError, OutputError, TrainingError
from ser_batch.files import OutputFolder, differences, disk_errors_named, open_atomically, write_json, write_rows
from ser_batch.models.bundles import DESCRIPTION, MODEL, Bundle, load_keras, open_bundle, save_bundle, save_keras
from ser_batch.models.crnn import CrnnOptions, InputScale, seed_crnn
from ser_batch.models.recipes import Recipe
from ser_batch.records.datasets import TrainingData, band_statistics, damage_named
from ser_batch.records.layout import RecordFolder

if TYPE_CHECKING:
    import keras

CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"
LOGS = "logs"
_RUN = "run.json"
_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Epoch:
    """One row of the history.

    Attributes:
        number: from 1.
        of: how many there will be.
        metrics: ``loss``, ``accuracy``, and with a validation split ``val_loss``, ``val_accuracy``.
        secs: how long it took.
    """

    number: int
    of: int
    metrics: dict[str, float]
    secs: float


@dataclass(frozen=True)
class TrainingResult:
    """What became of a training.

    Attributes:
        bundle: the trained model.
        was_finished: it had been finished before.
        continued_from: the epoch after which this run went on; 0 for a fresh start.
        notes: what a user should know, a line each.
    """

    bundle: Bundle
    was_finished: bool
    continued_from: int
    notes: tuple[str, ...] = ()


def train(
    records: RecordFolder,
    folder: Path,
    recipe: Recipe,
    seed: int = 0,
    restart: bool = False,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainingResult:
    """Train the recipe's network on the ``train`` split, or continue where a killed run stopped.

    The ``validation`` split is measured after every epoch and chooses nothing.

    Args:
        records: a finished record folder.
        folder: the bundle; made if absent.
        recipe: how.
        seed: of everything random.
        restart: throw away what an earlier training left in the folder.
        on_epoch: called after each epoch.

    Raises:
        TrainingError: there is nothing to learn from.
        OutputError: the folder is in use, not writable, or holds something else.
    """
    if len(records.labels) < 2:
        raise TrainingError(f"{records.path}: only one label, {records.labels[0]}; a classifier needs two or more")
    identity = {"records": records.fingerprint, "recipe": recipe.to_json(), "seed": seed}
    output = OutputFolder(folder, "a model bundle", DESCRIPTION, _is_ours)
    with output.held(), disk_errors_named(folder):
        if restart:
            output.clear()
        if (folder / DESCRIPTION).exists():
            bundle = open_bundle(folder)
            _refuse_other_run(folder, bundle.training, identity)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            return TrainingResult(bundle, True, recipe.epochs)
        _begin(output, identity)
        run = _Run(records, folder, recipe, seed)
        notes = run.resume()
        continued_from = len(run.history)
        while len(run.history) < recipe.epochs:
            on_epoch(run.one_epoch())
        bundle = run.finish(identity)
        return TrainingResult(bundle, False, continued_from, tuple(notes))


class _Run:
    """A training under way: a network, and the history of its epochs."""

    def __init__(self, records: RecordFolder, folder: Path, recipe: Recipe, seed: int) -> None:
        import keras
        import tensorflow as tf

        self._records = records
        self._folder = folder
        self._recipe = recipe
        self._seed = seed
        self.history: list[dict[str, float]] = []
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        self._data = TrainingData(records, "train")
        self._validation = TrainingData(records, "validation") if records.n_examples("validation") else None
        self._network = self._compiled_network()

    def _compiled_network(self) -> keras.Model:
        import keras

        recipe, records = self._recipe, self._records
        scale = InputScale(*band_statistics(records, "train")) if recipe.standardise else None
        options = CrnnOptions(recipe.dropout, recipe.norm_momentum)
        network = seed_crnn(records.front_end.shape, len(records.labels), options, scale)
        rate: Any = recipe.learning_rate
        if recipe.schedule == "cosine":
            steps_per_epoch = -(-records.n_examples("train") // recipe.batch_size)
            rate = keras.optimizers.schedules.CosineDecay(rate, recipe.epochs * steps_per_epoch)
        network.compile(
            optimizer=keras.optimizers.Adam(rate),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
            metrics=["accuracy"],
        )
        return network

    def resume(self) -> list[str]:
        """Take up the newest readable checkpoint; a line for each that is not."""
        notes = []
        for state in sorted((self._folder / CHECKPOINTS).glob("epoch-*.json"), reverse=True):
            try:
                self._network = load_keras(state.with_suffix(".keras"), compiled=True)
                self.history = json.loads(state.read_text(encoding="utf-8"))
                break
            except (BundleError, ValueError) as error:
                notes.append(f"checkpoint skipped: {error}")
        return notes

    def one_epoch(self) -> Epoch:
        """Train one epoch more and put it on disk."""
        began = time.perf_counter()
        number = len(self.history) + 1
        _seed_dropout(self._network, self._seed, number)
        with damage_named(self._records):
            fitted = self._network.fit(self._data.epoch(self._recipe.batch_size, self._seed, number), verbose=0)
        metrics = {name: float(values[-1]) for name, values in fitted.history.items()}
        if self._validation is not None:
            batches = self._validation.epoch(self._recipe.batch_size, self._seed, 0)
            measured = self._network.evaluate(batches, verbose=0, return_dict=True)
            metrics |= {f"val_{name}": float(value) for name, value in measured.items()}
        self.history.append(metrics)
        self._checkpoint(number)
        self._log(number, metrics)
        return Epoch(number, self._recipe.epochs, metrics, time.perf_counter() - began)

    def _checkpoint(self, number: int) -> None:
        """The network with its optimizer, then the history that says it is whole; the last two are kept."""
        checkpoints = self._folder / CHECKPOINTS
        path = checkpoints / f"epoch-{number:04d}.keras"
        save_keras(self._network, path)
        write_json(path.with_suffix(".json"), self.history)
        for state in sorted(checkpoints.glob("epoch-*.json"))[:-_KEPT_CHECKPOINTS]:
            state.unlink()
            state.with_suffix(".keras").unlink(missing_ok=True)

    def _log(self, number: int, metrics: dict[str, float]) -> None:
        import tensorflow as tf

        writer = tf.summary.create_file_writer(str(self._folder / LOGS))
        with writer.as_default():
            for name, value in metrics.items():
                tf.summary.scalar(name, value, step=number)
        writer.close()

    def finish(self, identity: dict[str, Any]) -> Bundle:
        """Write the bundle and drop the checkpoints."""
        import keras
        import tensorflow as tf

        _write_history(self._folder / HISTORY, self.history)
        # Loaded without compiling, so that the optimizer's two copies of the weights stay behind.
        last = self._folder / CHECKPOINTS / f"epoch-{len(self.history):04d}.keras"
        network = load_keras(last)
        training = identity | {
            "records_path": self._records.path.name,
            "examples": {split: self._records.n_examples(split) for split in ("train", "validation")},
            "last_epoch": self.history[-1],
            "parameters": network.count_params(),
            "versions": {"ser-batch": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        }
        bundle = save_bundle(self._folder, network, self._records.labels, self._records.front_end, training)
        shutil.rmtree(self._folder / CHECKPOINTS)
        return bundle


def _seed_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Set every random generator inside the network as a function of seed and epoch.

    They are told apart by their place in the network: their names are numbered anew in every process.
    """
    states = [variable for variable in network.variables if variable.path.endswith("seed_generator_state")]
    for place, state in enumerate(states):
        state.assign([zlib.crc32(f"{seed}/{epoch}/{place}".encode()), 0])


def _write_history(path: Path, history: list[dict[str, float]]) -> None:
    with open_atomically(path) as file:
        names = list(history[0])
        write_rows(file, [["epoch", *names]])
        write_rows(file, [[str(n), *(repr(epoch[name]) for name in names)] for n, epoch in enumerate(history, 1)])


def _begin(output: OutputFolder, identity: dict[str, Any]) -> None:
    run = output.path / CHECKPOINTS / _RUN
    if run.exists():
        _refuse_other_run(output.path, json.loads(run.read_text(encoding="utf-8")), identity)
        output.drop_partials()
        return
    output.begin(CHECKPOINTS)
    write_json(run, identity)


def _refuse_other_run(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if changed := differences(old, new, ("records", "recipe", "seed")):
        raise OutputError(
            f"{folder}: was trained otherwise; what differs: {'; '.join(changed)}. "
            "Give --restart to train anew, or name another --out"
        )


def _is_ours(name: str) -> bool:
    return name in {MODEL, DESCRIPTION, HISTORY, CHECKPOINTS, LOGS}
