"""A network in training: one ``fit``, with a checkpoint, a line of the log and a row of the history for every epoch."""

from __future__ import annotations

import errno
import io
import json
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import RecordsError
from ser_batch.storage.writing import open_atomically, write_rows
from ser_batch.training.features import FeatureSet
from ser_batch.training.input_pipeline import damage_named, n_batches
from ser_batch.training.optimisation import MovingAverage, make_optimizer
from ser_batch.training.recipes import OptimisationOptions

CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"
LOGS = "logs"

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

    def line(self) -> str:
        """All of it in a line."""
        figures = "  ".join(f"{name} {value:.3f}" for name, value in self.metrics.items())
        return f"epoch {self.number:3d}/{self.of}  {figures}  {self.secs:.1f} s"


class Trainer:
    """A network, its optimizer, the average of its weights, and the history of its epochs.

    Args:
        network: the part that learns; it is compiled.
        options: how.
        train: what it learns from.
        validation: what is measured after every epoch; None: nothing is.
        folder: of the bundle; checkpoints, logs and history are written there.
        seed: of everything random.

    Attributes:
        folder: of the bundle.
        history: the metrics of every epoch so far.
    """

    def __init__(
        self,
        network: keras.Model,
        options: OptimisationOptions,
        train: FeatureSet,
        validation: FeatureSet | None,
        folder: Path,
        seed: int,
    ) -> None:
        self._network, self._options = network, options
        self._train, self._validation = train, validation
        self.folder, self._seed = folder, seed
        self._steps = n_batches(train.n_examples, options.batch_size)
        self.history: list[dict[str, float]] = []
        network.compile(
            optimizer=make_optimizer(options, self._steps),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=options.label_smoothing),
            weighted_metrics=["accuracy"],
        )
        network.optimizer.build(network.trainable_variables)
        self._average = MovingAverage(network, options.averaging) if options.averaging else None

    def resume(self) -> list[str]:
        """Continue from the newest readable checkpoint; a line for each that is not readable."""
        notes = []
        for path in sorted((self.folder / CHECKPOINTS).glob("epoch-*.npz"), reverse=True):
            try:
                with np.load(path) as stored:
                    arrays = [stored[f"v{number}"] for number in range(len(stored.files) - 1)]
                    history = json.loads(str(stored["history"]))
                self._restore(arrays)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                notes.append(f"checkpoint skipped: {path}: cannot be loaded ({' '.join(str(error).split())[:200]})")
                continue
            self.history = history
            break
        return notes

    def fit(self, on_epoch: Callable[[Epoch], None]) -> None:
        """Train the epochs that are left, and write each to disk.

        They are one ``fit``: the next epoch's first batches are prepared while the last is measured and written.

        Raises:
            RecordsError: the records are damaged, or hold fewer examples than their manifest.
        """
        n_done, n_epochs = len(self.history), self._options.epochs
        if n_done == n_epochs:
            return
        began = time.perf_counter()

        def begin(epoch: int, _: Any) -> None:
            _seed_dropout(self._network, self._seed, epoch + 1)

        def end(epoch: int, metrics: dict[str, Any]) -> None:
            nonlocal began
            if self._network.optimizer.iterations.numpy() != (epoch + 1) * self._steps:
                path = self._train.records.path
                raise RecordsError(f"{path}: holds fewer examples than it lists; ser-batch verify says where")
            self.history.append({name: float(value) for name, value in (metrics | measure()).items()})
            self._write_checkpoint(epoch + 1)
            logs.add(epoch + 1, self.history[-1])
            on_epoch(Epoch(epoch + 1, n_epochs, self.history[-1], time.perf_counter() - began))
            began = time.perf_counter()

        callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)]
        if self._average:
            callbacks.append(self._average.callback())
        with damage_named(self._train.records), closing(_Logs(self.folder / LOGS)) as logs:
            measure = self._validator()
            self._network.fit(
                self._train.training_epochs(self._seed, range(n_done + 1, n_epochs + 1)),
                initial_epoch=n_done,
                epochs=n_epochs,
                steps_per_epoch=self._steps,
                shuffle=False,  # it is shuffled
                verbose=0,
                callbacks=callbacks,
            )

    def write_history(self) -> None:
        """Write the table of all epochs."""
        names = list(self.history[0])
        with open_atomically(self.folder / HISTORY) as file:
            write_rows(file, [["epoch", *names]])
            write_rows(file, [[str(n), *(repr(one[name]) for name in names)] for n, one in enumerate(self.history, 1)])

    def final_weights(self) -> list[Float32s]:
        """What the bundle gets: the weights, or their average."""
        variables = self._average.variables if self._average else self._network.weights
        return [np.asarray(variable) for variable in variables]

    def _validator(self) -> Callable[[], dict[str, float]]:
        """Measures the network as it would be kept."""
        if self._validation is None:
            return dict
        batches = self._validation.validation_epoch(self._seed)
        steps = n_batches(self._validation.n_examples, self._options.batch_size)

        def measure() -> dict[str, float]:
            with self._average.in_place() if self._average else nullcontext():
                measured = self._network.evaluate(batches, steps=steps, verbose=0, return_dict=True)
            return {f"val_{name}": value for name, value in measured.items()}

        return measure

    def _variables(self) -> list[Any]:
        """Everything that a step changes."""
        averages = self._average.variables if self._average else []
        return [*self._network.weights, *self._network.optimizer.variables, *averages]

    def _restore(self, arrays: list[Any]) -> None:
        variables = self._variables()
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            raise ValueError("it holds other variables than this network's")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def _write_checkpoint(self, number: int) -> None:
        """All that the next epoch depends on, in one file; the last two are kept."""
        checkpoints = self.folder / CHECKPOINTS
        arrays = {f"v{place}": np.asarray(variable) for place, variable in enumerate(self._variables())}
        content = io.BytesIO()  # on a full disk, closing a half-written archive would hide the error
        np.savez(content, history=np.array(json.dumps(self.history)), **arrays)
        with open_atomically(checkpoints / f"epoch-{number:04d}.npz", "wb") as file:
            file.write(content.getbuffer())
        for old in sorted(checkpoints.glob("epoch-*.npz"))[:-_KEPT_CHECKPOINTS]:
            old.unlink()


def _seed_dropout(network: keras.Model, seed: int, epoch: int) -> None:
    """Set every random generator inside the network as a function of seed and epoch.

    They are told apart by their place in the network: their names are numbered anew in every process.
    """
    states = [variable for variable in network.variables if variable.path.endswith("seed_generator_state")]
    for place, state in enumerate(states):
        state.assign([zlib.crc32(f"{seed}/{epoch}/{place}".encode()), 0])


class _Logs:
    """For TensorBoard: one file for all epochs of a run, created after the first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        with self._system_errors():
            self._writer = self._writer or tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(epoch):
                for name, value in metrics.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            with self._system_errors():
                self._writer.close()

    @contextmanager
    def _system_errors(self) -> Iterator[None]:
        """Turn TensorFlow's errors, of a full disk or a file that is gone, into `OSError`."""
        try:
            yield
        except tf.errors.OpError as error:
            detail = " ".join(str(error.message).split())[:200]
            raise OSError(errno.EIO, detail, str(self._folder)) from error
