"""Training loop: one ``fit``, with a checkpoint, a log entry and a row of the history for every epoch."""

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
from ser_batch.training.features import ExampleSet
from ser_batch.training.input_pipeline import damage_as_records_error, n_batches
from ser_batch.training.optimisation import MovingAverage, make_optimizer
from ser_batch.training.recipes import OptimisationOptions, history_name
from ser_batch.training.workers import ALONE, Workers

CHECKPOINTS = "checkpoints"
LOGS = "logs"

_KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, or the beginning of a part of the network.

    Attributes:
        number: number of finished epochs; at the beginning, 0 or those of an earlier run.
        of: number of epochs in the whole training.
        metrics: ``loss``, ``accuracy``, and with a validation split ``val_loss``, ``val_accuracy``; at the
            beginning, none.
        secs: duration in seconds.
        part: name of the network's part; empty: the first, or the whole network.
    """

    number: int
    of: int
    metrics: dict[str, float]
    secs: float
    part: str = ""

    def figures(self) -> str:
        """The accuracies in a few characters, for a progress bar."""
        names = {"accuracy": "accuracy", "val_accuracy": "validation"}
        return "".join(f", {name} {self.metrics[key]:.2f}" for key, name in names.items() if key in self.metrics)


class Trainer:
    """A network in training: its optimizer, the average of its weights, and the history of its epochs.

    Args:
        network: the trainable part; it is compiled here.
        options: optimisation settings.
        train: training examples.
        validation: examples that are evaluated after every epoch; None: no evaluation.
        folder: the bundle's folder; checkpoints, logs and history are written there.
        seed: of every random choice.
        part: name of the trained part of a network; empty: the first, or the whole network.
        workers: that train together; the first writes to the folder.

    Attributes:
        folder: the bundle's folder.
        history: the metrics of every finished epoch.
    """

    def __init__(
        self,
        network: keras.Model,
        options: OptimisationOptions,
        train: ExampleSet,
        validation: ExampleSet | None,
        folder: Path,
        seed: int,
        part: str = "",
        workers: Workers = ALONE,
    ) -> None:
        self._network, self._options, self._part = network, options, part
        self._train, self._validation = train, validation
        self.folder, self._seed, self._workers = folder, seed, workers
        self._steps = n_batches(train.n_examples, options.batch_size)
        self.history: list[dict[str, float]] = []
        network.compile(
            optimizer=make_optimizer(options, self._steps, workers.mean),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=options.label_smoothing),
            weighted_metrics=["accuracy"],
        )
        network.optimizer.build(network.trainable_variables)
        self._average = MovingAverage(network, options.averaging) if options.averaging else None

    def resume(self) -> list[str]:
        """Load the newest readable checkpoint; return one message for each that is unreadable."""
        notes = self._load_checkpoint() if self._workers.is_first else []
        if self._workers.are_several:
            state = [np.array(len(self.history)), *(np.asarray(variable) for variable in self._variables())]
            n_done, *arrays = self._workers.from_first(state)
            self._restore(arrays)
            self.history = self.history or [{}] * int(n_done)
        return notes

    def _load_checkpoint(self) -> list[str]:
        notes = []
        for path in self._checkpoints()[::-1]:
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
        """Train the remaining epochs, and write the state to disk after each.

        All epochs are one ``fit``: while one is evaluated and written, the first batches of the next are prepared.

        Raises:
            RecordsError: the records are damaged, or the shards hold fewer examples than the manifest lists.
        """
        n_done, n_epochs = len(self.history), self._options.epochs
        if n_done == n_epochs:
            return
        began = time.perf_counter()
        on_epoch(Epoch(n_done, n_epochs, {}, 0.0, self._part))

        def begin(epoch: int, _: Any) -> None:
            _seed_dropout(self._network, self._seed, epoch + 1, self._workers.share.number)

        def end(epoch: int, metrics: dict[str, Any]) -> None:
            nonlocal began
            if self._network.optimizer.iterations.numpy() != (epoch + 1) * self._steps:
                path = self._train.records.path
                raise RecordsError(
                    f"{path}: holds fewer examples than its manifest lists; run ser-batch verify to list all problems"
                )
            metrics = self._mean_metrics(metrics)
            self._average_statistics()
            self.history.append({name: float(value) for name, value in (metrics | measure()).items()})
            if self._workers.is_first:
                self._write_checkpoint(epoch + 1)
                logs.add(epoch + 1, self.history[-1])
            on_epoch(Epoch(epoch + 1, n_epochs, self.history[-1], time.perf_counter() - began, self._part))
            began = time.perf_counter()

        callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)]
        if self._average:
            callbacks.append(self._average.callback())
        share, numbers = self._workers.share, range(n_done + 1, n_epochs + 1)
        with self._workers.first_before_others():  # extracted features are in files that all read
            batches = self._train.training_epochs(self._seed, numbers, share)
        with (
            damage_as_records_error(self._train.records),
            self._workers.loss_as_worker_error(),
            closing(_Logs(self.folder / LOGS / self._part)) as logs,
        ):
            measure = self._validator()
            self._network.fit(
                batches,
                initial_epoch=n_done,
                epochs=n_epochs,
                steps_per_epoch=self._steps,
                shuffle=False,  # the batches are already shuffled
                verbose=0,
                callbacks=callbacks,
            )

    def write_history(self) -> None:
        """Write the metrics of all epochs as CSV: a row per epoch."""
        names = list(self.history[0])
        with open_atomically(self.folder / history_name(self._part)) as file:
            write_rows(file, [["epoch", *names]])
            write_rows(file, [[str(n), *(repr(one[name]) for name in names)] for n, one in enumerate(self.history, 1)])

    def final_weights(self) -> list[Float32s]:
        """The weights that the bundle gets: the moving average if there is one, otherwise the last weights."""
        variables = self._average.variables if self._average else self._network.weights
        return [np.asarray(variable) for variable in variables]

    def _validator(self) -> Callable[[], dict[str, float]]:
        """A function that evaluates the network with the weights that the bundle would get."""
        if self._validation is None or not self._workers.is_first:
            return dict
        batches = self._validation.validation_epoch(self._seed)
        steps = n_batches(self._validation.n_examples, self._options.batch_size)

        def measure() -> dict[str, float]:
            with self._average.in_place() if self._average else nullcontext():
                measured = self._network.evaluate(batches, steps=steps, verbose=0, return_dict=True)
            return {f"val_{name}": value for name, value in measured.items()}

        return measure

    def _mean_metrics(self, own: dict[str, Any]) -> dict[str, float]:
        """The metrics of an epoch over the examples of all workers."""
        share, n_examples = self._workers.share, self._train.n_examples
        factors = {"accuracy": share.n_examples(n_examples) * share.of / n_examples}
        return {name: self._workers.from_all(float(own[name]) * factors.get(name, 1.0)) for name in sorted(own)}

    def _average_statistics(self) -> None:
        """Give all workers the mean of what depends on their own examples: the statistics of batch normalisation."""
        if not self._workers.are_several:
            return
        averages = self._average.variables if self._average else []
        own = [*self._network.non_trainable_weights, *averages]
        floats = [variable for variable in own if "float" in str(variable.dtype)]
        means = self._workers.mean([tf.convert_to_tensor(one) for one in floats])
        for variable, mean in zip(floats, means, strict=True):
            variable.assign(mean)

    def _variables(self) -> list[Any]:
        """All variables that a training step changes."""
        averages = self._average.variables if self._average else []
        return [*self._network.weights, *self._network.optimizer.variables, *averages]

    def _restore(self, arrays: list[Any]) -> None:
        variables = self._variables()
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            raise ValueError("its variables do not match this network")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def _write_checkpoint(self, number: int) -> None:
        """Write the state that the next epoch depends on to one file; the last two files are kept."""
        arrays = {f"v{place}": np.asarray(variable) for place, variable in enumerate(self._variables())}
        content = io.BytesIO()  # on a full disk, the error on closing the archive would replace the first error
        np.savez(content, history=np.array(json.dumps(self.history)), **arrays)
        name = f"{self._part and self._part + '-'}epoch-{number:04d}.npz"
        with open_atomically(self.folder / CHECKPOINTS / name, "wb") as file:
            file.write(content.getbuffer())
        for old in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def _checkpoints(self) -> list[Path]:
        """All checkpoints, oldest first."""
        return sorted((self.folder / CHECKPOINTS).glob(f"{self._part and self._part + '-'}epoch-*.npz"))


def _seed_dropout(network: keras.Model, seed: int, epoch: int, worker: int) -> None:
    """Seed every random generator inside the network from the training's seed, the epoch and the worker.

    Generators are identified by their position in the network: their names differ between processes.
    """
    states = [variable for variable in network.variables if variable.path.endswith("seed_generator_state")]
    for place, state in enumerate(states):
        state.assign([zlib.crc32(f"{seed}/{epoch}/{place}".encode()), worker])


class _Logs:
    """TensorBoard logs: one file for all epochs of a run, created after the first epoch."""

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
        """Convert TensorFlow's errors (full disk, missing file) to `OSError`."""
        try:
            yield
        except tf.errors.OpError as error:
            detail = " ".join(str(error.message).split())[:200]
            raise OSError(errno.EIO, detail, str(self._folder)) from error
