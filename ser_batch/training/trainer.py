"""A training under way: network, optimizer, averages, checkpoints, logs."""

from __future__ import annotations

import errno
import io
import json
import shutil
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ser_batch import __version__
from ser_batch.audio.decoders import Float32s
from ser_batch.errors import RecordsError, UsageError
from ser_batch.models.bundles import Bundle, BundleContent, save_bundle
from ser_batch.models.calibration import fit_temperature
from ser_batch.models.networks.families import build_extractor, build_learner, build_network, features_of
from ser_batch.models.normalisation import Scale, measure_scale, within_speakers
from ser_batch.models.novelty import fit_novelty
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import TrainValidation, manifest_rows
from ser_batch.storage.writing import open_atomically, write_rows
from ser_batch.training.augmentation import mixed, varied
from ser_batch.training.features import _FeatureSet
from ser_batch.training.input_pipeline import EpochOptions, damage_named, n_batches
from ser_batch.training.recipes import Recipe

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Precision = Literal["float32", "mixed_bfloat16"]

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


class _Run:
    """A training under way: a network, the average of its weights, and the history of its epochs."""

    def __init__(
        self,
        records: RecordFolder,
        sides: TrainValidation,
        folder: Path,
        recipe: Recipe,
        seed: int,
        precision: Precision,
    ) -> None:
        import keras
        import tensorflow as tf

        self._records = records
        self._sides = sides
        self._folder = folder
        self._recipe = recipe
        self._seed = seed
        self.history: list[dict[str, float]] = []
        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(seed)
        self._extractor = build_extractor(records, recipe)
        vary = varied(recipe.augmentation, records.front_end)
        by_speaker = recipe.normalise == "speaker"
        self._train = _FeatureSet(records, sides.train, self._extractor, by_speaker, vary, recipe.copies)
        self._validation = (
            _FeatureSet(records, sides.validation, self._extractor, by_speaker) if sides.validation else None
        )
        self._scale = self._training_scale()
        self._mix = mixed(recipe.augmentation)
        self._label_weights = self._balanced() if recipe.class_weight == "balanced" else None
        with _computing_in(precision):
            self._network = build_learner(records, recipe, self._scale)
        self._network.compile(
            optimizer=make_optimizer(recipe, sides.train.n_examples),
            loss=keras.losses.CategoricalCrossentropy(label_smoothing=recipe.label_smoothing),
            weighted_metrics=["accuracy"],
        )
        self._network.optimizer.build(self._network.trainable_variables)
        self._average = _Average(self._network, recipe.averaging) if recipe.averaging else None

    def _training_scale(self) -> Scale | None:
        """What the network standardises with: of functionals, or of every mel band over all frames."""
        if self._recipe.normalise == "none":
            return None
        examples = (examples for examples, _ in self._train.batches())
        if self._extractor is None:
            n_mels = self._records.front_end.n_mels
            return measure_scale(log_mels.transpose(0, 2, 1).reshape(-1, n_mels) for log_mels in examples)
        if self._recipe.normalise == "speaker":
            return within_speakers(np.concatenate(list(examples)), self._train.speakers())
        return measure_scale(examples)

    def _balanced(self) -> Float32s:
        """For every label the weight at which all labels present count alike, 1 on average over examples."""
        counts = np.zeros(len(self._records.labels))
        for row in manifest_rows(self._records, self._sides.train):
            counts[self._records.labels.index(row["label"])] += 1
        weights = counts.sum() / (np.count_nonzero(counts) * np.maximum(counts, 1))
        return np.asarray(weights, dtype=np.float32)

    def resume(self) -> list[str]:
        """Take up the newest readable checkpoint; a line for each that is not."""
        notes = []
        for path in sorted((self._folder / CHECKPOINTS).glob("epoch-*.npz"), reverse=True):
            try:
                with np.load(path) as stored:
                    arrays = [stored[f"v{number}"] for number in range(len(stored.files) - 1)]
                    history = json.loads(str(stored["history"]))
                self._put(arrays)
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
                notes.append(f"checkpoint skipped: {path}: cannot be loaded ({' '.join(str(error).split())[:200]})")
                continue
            self.history = history
            break
        return notes

    def _variables(self) -> list[Any]:
        """Everything that a step changes."""
        averages = self._average.variables if self._average else []
        return [*self._network.weights, *self._network.optimizer.variables, *averages]

    def _put(self, arrays: list[Any]) -> None:
        variables = self._variables()
        if [array.shape for array in arrays] != [tuple(variable.shape) for variable in variables]:
            raise ValueError("it holds other variables than this network's")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)

    def train_on(self, on_epoch: Callable[[Epoch], None]) -> None:
        """Train the epochs that are left, and put each on disk.

        They are one ``fit``: the next epoch's first batches are prepared while the last is measured and written.
        """
        import keras

        n_done, n_epochs = len(self.history), self._recipe.epochs
        if n_done == n_epochs:
            return
        steps = n_batches(self._sides.train.n_examples, self._recipe.batch_size)
        began = time.perf_counter()
        logs = _Logs(self._folder / LOGS)

        def begin(epoch: int, _: Any) -> None:
            _seed_dropout(self._network, self._seed, epoch + 1)

        def end(epoch: int, found: dict[str, Any]) -> None:
            nonlocal began
            if self._network.optimizer.iterations.numpy() != (epoch + 1) * steps:
                path = self._records.path
                raise RecordsError(f"{path}: holds fewer examples than it says; ser-batch verify says where")
            metrics = {name: float(value) for name, value in found.items()}
            metrics |= self._validate(validation)
            self.history.append(metrics)
            self._checkpoint(epoch + 1)
            logs.add(epoch + 1, metrics)
            on_epoch(Epoch(epoch + 1, n_epochs, metrics, time.perf_counter() - began))
            began = time.perf_counter()

        callbacks = [keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=end)]
        if self._average:
            callbacks.append(self._average.callback())
        with damage_named(self._records), closing(logs):
            validation = self._validation_batches()
            self._network.fit(
                self._train.data.epochs(self._options(), range(n_done + 1, n_epochs + 1)),
                initial_epoch=n_done,
                epochs=n_epochs,
                steps_per_epoch=steps,
                shuffle=False,  # it is shuffled
                verbose=0,
                callbacks=callbacks,
            )

    def _options(self) -> EpochOptions:
        scales = self._train.random_scales(self._scale, self._seed)
        return EpochOptions(self._recipe.batch_size, self._seed, self._mix, scales, self._label_weights)

    def _validation_batches(self) -> tf.data.Dataset | None:
        if self._validation is None:
            return None
        scales = self._validation.scales(self._scale)
        options = EpochOptions(self._recipe.batch_size, self._seed, scales=None if scales is None else lambda _: scales)
        return self._validation.data.epochs(options, [0])

    def _validate(self, batches: tf.data.Dataset | None) -> dict[str, float]:
        if batches is None or self._sides.validation is None:
            return {}
        steps = n_batches(self._sides.validation.n_examples, self._recipe.batch_size)
        with self._averaged():
            measured = self._network.evaluate(batches, steps=steps, verbose=0, return_dict=True)
        return {f"val_{name}": float(value) for name, value in measured.items()}

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """With the weights that are kept in place of those that are trained."""
        if self._average is None:
            yield
            return
        trained = [weight.numpy() for weight in self._network.weights]
        for weight, average in zip(self._network.weights, self._average.variables, strict=True):
            weight.assign(average)
        try:
            yield
        finally:
            for weight, values in zip(self._network.weights, trained, strict=True):
                weight.assign(values)

    def _checkpoint(self, number: int) -> None:
        """All that the next epoch depends on, in one file; the last two are kept."""
        checkpoints = self._folder / CHECKPOINTS
        arrays = {f"v{place}": np.asarray(variable) for place, variable in enumerate(self._variables())}
        content = io.BytesIO()  # on a full disk a half-written archive would have more to say than the error
        np.savez(content, history=np.array(json.dumps(self.history)), **arrays)
        with open_atomically(checkpoints / f"epoch-{number:04d}.npz", "wb") as file:
            file.write(content.getbuffer())
        for old in sorted(checkpoints.glob("epoch-*.npz"))[:-_KEPT_CHECKPOINTS]:
            old.unlink()

    def finish(self, identity: dict[str, Any]) -> Bundle:
        """Write the bundle and drop the checkpoints."""
        import keras
        import tensorflow as tf

        _write_history(self._folder / HISTORY, self.history)
        # Not compiled: the optimizer's copies of the weights stay behind.
        network = build_network(self._records, self._recipe, self._scale)
        kept = self._average.variables if self._average else self._network.weights
        for weight, values in zip(network.weights, kept, strict=True):
            weight.assign(np.asarray(values))
        learner = build_learner(self._records, self._recipe, self._scale)
        learner.set_weights(network.get_weights())
        training = identity | {
            "records_path": self._records.path.name,
            "n_examples": {
                "train": self._sides.train.n_examples,
                "validation": self._sides.validation.n_examples if self._sides.validation else 0,
            },
            "last_epoch": self.history[-1],
            "parameters": network.count_params(),
            "versions": {"ser-batch": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
        }
        novelty = fit_novelty(lambda: self._train.outputs(features_of(learner), self._scale))
        temperature = self._temperature(learner)
        content = BundleContent(
            self._records.labels,
            self._records.front_end,
            1.0 if temperature is None else temperature,
            self._scale if self._recipe.normalise == "speaker" else None,
            training,
            fitted_on=None if temperature is None else training["n_examples"]["validation"],
        )
        bundle = save_bundle(self._folder, network, novelty, content)
        shutil.rmtree(self._folder / CHECKPOINTS)
        return bundle

    def _temperature(self, learner: keras.Model) -> float | None:
        """Fitted on the validation side; None where it cannot be."""
        if self._validation is None:
            return None
        batches = list(self._validation.outputs(learner, self._scale))
        probabilities, truth = (np.concatenate(column) for column in zip(*batches, strict=True))
        return fit_temperature(probabilities, truth)


class _Average:
    """The moving average of a network's weights over the steps.

    Kept outside the optimizer: Keras' own ends every ``fit`` by overwriting the weights with the average, and
    then nothing can go on where it was. Early on, when there is little to average, it forgets faster.
    """

    def __init__(self, network: keras.Model, decay: float) -> None:
        import tensorflow as tf

        self._weights = [weight.value for weight in network.weights]
        self._decay = decay
        self._steps = network.optimizer.iterations.value
        self.variables = [tf.Variable(weight, trainable=False) for weight in self._weights]
        self._update = tf.function(self._updated, autograph=False)

    def _updated(self) -> None:
        import tensorflow as tf

        steps = tf.cast(self._steps, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + steps) / (10.0 + steps))
        for average, weight in zip(self.variables, self._weights, strict=True):
            average.assign_sub((1.0 - decay) * (average - weight))

    def callback(self) -> keras.callbacks.Callback:
        """What updates the average after every step."""
        import keras

        return keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: self._update())


class _Logs:
    """For TensorBoard: a file for all epochs of a run, begun after the first, when there is something to go on from."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: tf.summary.SummaryWriter | None = None

    def add(self, epoch: int, metrics: dict[str, float]) -> None:
        import tensorflow as tf

        with self._errors_as_the_systems():
            self._writer = self._writer or tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(epoch):
                for name, value in metrics.items():
                    tf.summary.scalar(name, value)
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
            with self._errors_as_the_systems():
                self._writer.close()

    @contextmanager
    def _errors_as_the_systems(self) -> Iterator[None]:
        """TensorFlow has errors of its own for a full disk, and for a file that went."""
        import tensorflow as tf

        try:
            yield
        except tf.errors.OpError as error:
            detail = " ".join(str(error.message).split())[:200]
            raise OSError(errno.EIO, detail, str(self._folder)) from error


def make_optimizer(recipe: Recipe, n_examples: int) -> keras.optimizers.Optimizer:
    """The recipe's optimizer, with a schedule for so many training examples."""
    import keras

    rate: Any = recipe.learning_rate
    steps_per_epoch = n_batches(n_examples, recipe.batch_size)
    warmup_steps = min(recipe.warmup_epochs, recipe.epochs - 1) * steps_per_epoch
    if recipe.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(
            rate if not warmup_steps else 0.0,
            recipe.epochs * steps_per_epoch - warmup_steps,
            warmup_target=rate if warmup_steps else None,
            warmup_steps=warmup_steps,
        )
    clip = recipe.clip_norm or None
    if not recipe.weight_decay:
        return keras.optimizers.Adam(rate, global_clipnorm=clip)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay, global_clipnorm=clip)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def parse_precision(text: str) -> Precision:
    """``auto``: bfloat16 where this machine computes in it natively, else float32; or ``off``: float32.

    Raises:
        UsageError: neither.
    """
    if text == "off":
        return "float32"
    if text != "auto":
        raise UsageError(f"--mixed-precision {text}: choose one of auto, off")
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    return "mixed_bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"


@contextmanager
def _computing_in(precision: Precision) -> Iterator[None]:
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
