"""From record folder to bundle, with a checkpoint after every epoch.

Every random choice is a function of the seed and the epoch (initial weights, order of examples,
augmentation, dropout), and TensorFlow's operations are deterministic. So a training that was killed and
started again ends with the same weights as one that was not.
"""

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
from numpy.typing import NDArray

from ser_batch import __version__
from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontend import preset_name
from ser_batch.errors import BundleError, OutputError, RecordsError, TrainingError, UsageError
from ser_batch.files import (
    OutputFolder,
    differences,
    disk_errors_named,
    open_atomically,
    read_own_json,
    write_json,
    write_rows,
)
from ser_batch.models.augment import mixed, varied
from ser_batch.models.bundles import (
    BUNDLE_FILES,
    DESCRIPTION,
    Bundle,
    BundleContent,
    open_bundle,
    save_bundle,
)
from ser_batch.models.calibration import fit_temperature
from ser_batch.models.networks import build_extractor, build_learner, build_network, features_of, graph_of, refuse_unfit
from ser_batch.models.novelty import fit_novelty
from ser_batch.models.recipes import Recipe
from ser_batch.models.scales import (
    Scale,
    measure_scale,
    random_speaker_scales,
    speaker_scales,
    within_speakers,
)
from ser_batch.records.datasets import (
    EpochOptions,
    Preparation,
    Selection,
    TrainingData,
    copies_of_other_splits,
    damage_named,
    manifest_rows,
    n_batches,
    read_batches,
    split_selection,
)
from ser_batch.records.layout import RecordFolder
from ser_batch.stops import resumable
from ser_batch.wording import counted

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

Precision = Literal["float32", "mixed_bfloat16"]

CHECKPOINTS = "checkpoints"
HISTORY = "history.csv"
LOGS = "logs"
_RUN = "run.json"
_KEPT_CHECKPOINTS = 2
_BATCH_SIZE = 32


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


@dataclass(frozen=True)
class Sides:
    """What a training sees.

    Attributes:
        train: what it learns from.
        validation: what is measured after every epoch and calibrates the result; it chooses nothing.
        description: JSON, what tells these sides from others of the same records.
        n_copies: examples of the split ``train`` that are left out, as another split has their audio.
    """

    train: Selection
    validation: Selection | None
    description: Any
    n_copies: int = 0


def split_sides(records: RecordFolder) -> Sides:
    """The splits ``train`` and ``validation``, without what is in ``train`` and in another split under two names.

    Raises:
        RecordsError: there is no example to train on.
    """
    has_validation = records.n_examples("validation") > 0
    validation = split_selection(records, "validation") if has_validation else None
    train = split_selection(records, "train")
    copied = copies_of_other_splits(records, "train")
    if copied is None:
        return Sides(train, validation, "splits")
    chosen = Selection("train", train.shards, ~copied)
    if not chosen.n_examples:
        raise RecordsError(
            f"{records.path}: every training example is also in another split; build it with other splits"
        )
    return Sides(chosen, validation, "splits", int(copied.sum()))


def train(
    records: RecordFolder,
    folder: Path,
    recipe: Recipe,
    seed: int = 0,
    restart: bool = False,
    sides: Sides | None = None,
    precision: Precision = "float32",
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainingResult:
    """Train the recipe's network, or continue where a killed run stopped.

    Args:
        records: a finished record folder.
        folder: the bundle; made if absent.
        recipe: how.
        seed: of everything random.
        restart: throw away what an earlier training left in the folder.
        sides: what to train and validate on; None: the splits of these names.
        precision: what steps are computed in; weights and what is saved are float32 always.
        on_epoch: called after each epoch.

    Raises:
        TrainingError: there is nothing to learn from, or the recipe does not fit the records.
        OutputError: the folder is in use, not writable, or holds something else.
    """
    if len(records.labels) < 2:
        raise TrainingError(f"{records.path}: only one label, {records.labels[0]}; a classifier needs two or more")
    _refuse_other_front_end(records, recipe)
    refuse_unfit(recipe)
    sides = sides or split_sides(records)
    identity = {
        "records": records.fingerprint,
        "recipe": recipe.to_json(),
        "seed": seed,
        "precision": precision,
        "examples": sides.description,
    }
    output = OutputFolder(folder, "a model bundle", DESCRIPTION, _is_ours)
    with output.held(), disk_errors_named(folder), resumable():
        if restart:
            output.clear()
        if (folder / DESCRIPTION).exists():
            bundle = open_bundle(folder)
            _refuse_other_run(folder, bundle.training, identity)
            with _restart_advised():
                bundle.check()
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            return TrainingResult(bundle, True, recipe.epochs)
        _begin(output, identity)
        run = _Run(records, sides, folder, recipe, seed, precision)
        notes = run.resume()
        if recipe.normalise == "speaker" and not any(row["speaker"] for row in manifest_rows(records, sides.train)):
            notes.append("normalised by speaker, and none is known in these records: everybody is taken to be average")
        if sides.n_copies:
            examples = counted(sides.n_copies, "training example")
            notes.append(f"{examples} left out: the same audio is in the split validation or test, too")
        continued_from = len(run.history)
        run.train_on(on_epoch)
        bundle = run.finish(identity)
        return TrainingResult(bundle, False, continued_from, tuple(notes))


def _refuse_other_front_end(records: RecordFolder, recipe: Recipe) -> None:
    found = preset_name(records.front_end)
    if found != recipe.front_end:
        raise TrainingError(
            f"{records.path}: made with the front end {found}, and the recipe {recipe.name} is for {recipe.front_end}; "
            f"build the records with --front-end {recipe.front_end}, or choose another --recipe"
        )


class _Run:
    """A training under way: a network, the average of its weights, and the history of its epochs."""

    def __init__(
        self, records: RecordFolder, sides: Sides, folder: Path, recipe: Recipe, seed: int, precision: Precision
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
        self._train = _Side(records, sides.train, self._extractor, by_speaker, vary, recipe.copies)
        self._validation = _Side(records, sides.validation, self._extractor, by_speaker) if sides.validation else None
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


class _Side:
    """Examples of a training, as they are and as they are learnt from.

    What is extracted from the examples as they are is kept if they fit in memory, or if their speakers count.
    """

    def __init__(
        self,
        records: RecordFolder,
        selection: Selection,
        extractor: keras.Model | None,
        by_speaker: bool,
        vary: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
        copies: int = 1,
    ) -> None:
        extract = graph_of(extractor) if extractor else None
        self.data = TrainingData(records, selection, Preparation(vary, extract, copies, in_order=by_speaker))
        self._records = records
        self._selection = selection
        self._extract = extract
        self._by_speaker = by_speaker
        self._kept: list[tuple[Float32s, NDArray[np.int64]]] = []

    def batches(self) -> Iterator[tuple[Float32s, NDArray[np.int64]]]:
        """The examples as they are, as a learner takes them, with their labels."""
        if self._kept:
            yield from self._kept
            return
        keep = self._extract is not None and (self.data.fits or self._by_speaker)
        for batch in read_batches(self._records, self._selection, _BATCH_SIZE):
            pair = (self._extract(batch.log_mels).numpy() if self._extract else batch.log_mels, batch.labels)
            if keep:
                self._kept.append(pair)
            yield pair

    def speakers(self) -> list[str]:
        """Of every example; empty where unknown."""
        return [row["speaker"] for row in manifest_rows(self._records, self._selection)]

    def scales(self, reference: Scale | None) -> Float32s | None:
        """Of every example, from all of its speaker's; None if speakers do not count."""
        if not self._by_speaker or reference is None:
            return None
        return speaker_scales(self._features(), self.speakers(), reference)

    def random_scales(self, reference: Scale | None, seed: int) -> Callable[[int], Float32s] | None:
        """From an epoch's number to every example's, from some of its speaker's; None if speakers do not count."""
        if not self._by_speaker or reference is None:
            return None
        features, speakers = self._features(), self.speakers()
        return lambda number: random_speaker_scales(
            features, speakers, reference, np.random.default_rng([seed, number])
        )

    def _features(self) -> Float32s:
        return np.concatenate([examples for examples, _ in self.batches()])

    def outputs(self, learner: keras.Model, reference: Scale | None) -> Iterator[tuple[Float32s, NDArray[np.int64]]]:
        """What a learner makes of the examples as they are, with their labels."""
        graph = graph_of(learner)
        scales = self.scales(reference)
        first = 0
        for examples, labels in self.batches():
            last = first + len(labels)
            extra = () if scales is None else (scales[first:last],)
            yield graph(examples, *extra).numpy(), labels
            first = last


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
            raise OSError(errno.EIO, f"{self._folder}: {' '.join(str(error.message).split())[:200]}") from error


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


@contextmanager
def _restart_advised() -> Iterator[None]:
    try:
        yield
    except BundleError as error:
        raise OutputError(f"{error}, or give --restart to train anew") from error


def _begin(output: OutputFolder, identity: dict[str, Any]) -> None:
    run = output.path / CHECKPOINTS / _RUN
    if run.exists() and any(run.parent.glob("epoch-*.npz")):  # else nothing would be lost
        _refuse_other_run(output.path, read_own_json(run), identity)
        output.drop_partials()
        return
    output.begin(CHECKPOINTS)
    write_json(run, identity)


def _refuse_other_run(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    if changed := differences(old, new, ("records", "recipe", "seed", "precision", "examples")):
        raise OutputError(
            f"{folder}: was trained otherwise; what differs: {'; '.join(changed)}. "
            "Give --restart to train anew, or name another --out"
        )


def _is_ours(name: str) -> bool:
    return name in BUNDLE_FILES | {HISTORY, CHECKPOINTS, LOGS}
