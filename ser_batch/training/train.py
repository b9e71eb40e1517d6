"""From record folder to bundle, with a checkpoint after every epoch.

Every random choice is a function of the seed and the epoch (initial weights, order of examples,
augmentation, dropout), and TensorFlow's operations are deterministic. So a training that was killed and
resumed ends with the same weights as an uninterrupted one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from ser_batch.audio.frontends import preset_name
from ser_batch.errors import BundleError, OutputError, TrainingError
from ser_batch.formatting import pluralize
from ser_batch.models.bundles import BUNDLE_FILES, DESCRIPTION, Bundle, open_bundle
from ser_batch.models.networks.families import build_learner
from ser_batch.models.networks.options import check_normalisation
from ser_batch.models.normalisation import Scale
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import TrainValidation, manifest_column, split_train_validation
from ser_batch.storage.outputs import OutputKind, open_output
from ser_batch.training.determinism import computing_in, deterministic
from ser_batch.training.feature_store import FeatureStore
from ser_batch.training.features import ExampleSet, FunctionalSet, LogMelSet
from ser_batch.training.initial import InitialWeights, initial_weights
from ser_batch.training.packaging import TrainedPart, package
from ser_batch.training.recipes import PARTS, VALIDATION, Precision, Recipe, history_name
from ser_batch.training.trainer import CHECKPOINTS, LOGS, Epoch, Trainer
from ser_batch.training.workers import ALONE, Workers


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training.

    Attributes:
        bundle: the trained model.
        was_finished: whether the training was already finished before this run.
        continued_from: number of epochs done before this run, of all parts; 0 for a new training.
        notes: messages for the user, one line each.
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
    sides: TrainValidation | None = None,
    precision: Precision = "float32",
    init: Bundle | None = None,
    features: Path | None = None,
    workers: Workers = ALONE,
    on_epoch: Callable[[Epoch], None] = lambda epoch: None,
    on_extract: Callable[[int, int], Any] = lambda done, total: None,
) -> TrainingResult:
    """Train the recipe's network, or resume an interrupted training.

    Args:
        records: a finished record folder.
        folder: the bundle's folder; created if missing.
        recipe: the settings.
        seed: of every random choice.
        restart: delete the files of an earlier training in the folder.
        sides: training and validation examples; None: the splits ``train`` and ``validation``.
        precision: of the computations; weights and saved files are always float32.
        init: a bundle whose weights are the start; None: the start is random.
        features: folder of the files of extracted features; None: within the bundle's folder until it is finished.
        workers: that train together; all have to see the folder, and the first writes to it.
        on_epoch: called at the beginning of each part of the network, and after each epoch.
        on_extract: called while functionals are extracted, with the numbers of done and of all examples and copies.

    Raises:
        TrainingError: the records have fewer than two labels, or the recipe does not fit them.
        WorkerError: another worker has ended, or has other settings.
        RecordsError: there are no training examples, or the records are damaged.
        OutputError: the folder is in use, not writable, or holds other files.
    """
    _check_records(records, recipe)
    initial = initial_weights(init, records, recipe) if init else None
    sides = sides or split_train_validation(records)
    identity = {"records": records.fingerprint, "recipe": recipe.to_json(), "seed": seed, "precision": precision}
    identity |= {"init": init and init.fingerprint, "examples": sides.description}
    if workers.are_several:
        _check_workers(recipe, workers, identity)
        identity["workers"] = workers.share.of
    with open_output(folder, _KIND, identity, restart) if workers.is_first else nullcontext() as output:
        if workers.from_all(float(output is not None and output.is_finished)):
            return TrainingResult(_checked_bundle(folder), True, sum(part.epochs for part in recipe.parts.values()))
        n_extracted = _n_extracted(sides, recipe)
        features = features or folder / CHECKPOINTS / _FEATURES
        store = FeatureStore(features, records, recipe, lambda done: on_extract(done, n_extracted))
        training = _Training(folder, store, sides, seed, precision, initial, workers)
        parts = [training.run(name, part, on_epoch) for name, part in recipe.parts.items()]
        with workers.first_before_others(), deterministic(seed):
            if output is not None:
                package(folder, store, sides, recipe, [part.trained for part in parts], identity)
                output.finish()
            bundle = open_bundle(folder)
        notes = [*_notes(records, recipe, sides), *([initial.note(init)] if init and initial else [])]
        notes += chain.from_iterable(part.notes for part in parts)
        return TrainingResult(bundle, False, sum(part.continued_from for part in parts), tuple(notes))


def _n_extracted(sides: TrainValidation, recipe: Recipe) -> int:
    """The number of examples whose functionals a new training extracts, copies included."""
    n_copies = 1 + min(recipe.copies, recipe.epochs)
    n_validation = sum(shard.examples for shard in sides.validation.shards) if sides.validation else 0
    return n_copies * sum(shard.examples for shard in sides.train.shards) + n_validation


class _PartResult(NamedTuple):
    """A trained part of the network, the number of its epochs done before this run, and messages for the user."""

    trained: TrainedPart
    continued_from: int
    notes: list[str]


@dataclass(frozen=True)
class _Training:
    """What the trainings of all parts of a network share; see `train`."""

    folder: Path
    store: FeatureStore
    sides: TrainValidation
    seed: int
    precision: Precision
    initial: InitialWeights | None
    workers: Workers

    def run(self, name: str, part: Recipe, on_epoch: Callable[[Epoch], None]) -> _PartResult:
        """Train a part, or resume its training."""
        with deterministic(self.seed):
            with self.workers.first_before_others():
                trainer, scale = self._trainer(name, part)
            notes = trainer.resume()
            continued_from = len(trainer.history)
            trainer.fit(on_epoch)
        if self.workers.is_first:
            trainer.write_history()
        trained = TrainedPart(part, trainer.final_weights(), scale, trainer.history[-1])
        return _PartResult(trained, continued_from, notes)

    def _trainer(self, name: str, part: Recipe) -> tuple[Trainer, Scale | None]:
        """The trainer of a part, and the scale of its features."""
        records, start = self.store.records, self.initial if part.network == "functionals" else None
        train_set, validation = self._example_sets(part, start)
        with computing_in(self.precision):
            layer = (start.kernel, start.bias) if start else None
            network = build_learner(records.front_end, len(records.labels), part, train_set.scale, layer)
        if self.initial and part.network == "crnn":
            self.initial.apply_to_crnn(network)
        trainer = Trainer(network, part, train_set, validation, self.folder, self.seed, name, self.workers)
        return trainer, train_set.scale

    def _example_sets(self, part: Recipe, start: InitialWeights | None) -> tuple[ExampleSet, ExampleSet | None]:
        """Training and validation examples of a part."""
        store, train_side, held_out = self.store, self.sides.train, self.sides.validation
        if part.network == "functionals":
            functionals = FunctionalSet(store, train_side, part, variance=start.variance if start else None)
            return functionals, FunctionalSet(store, held_out, part, functionals) if held_out else None
        log_mels = LogMelSet(store.records, train_side, part)
        return log_mels, LogMelSet(store.records, held_out, part, log_mels) if held_out else None


def _check_records(records: RecordFolder, recipe: Recipe) -> None:
    if len(records.labels) < 2:
        raise TrainingError(f"{records.path}: only one label, {records.labels[0]}; a classifier needs two or more")
    found = preset_name(records.front_end)
    if found != recipe.front_end:
        raise TrainingError(
            f"{records.path}: made with the front end {found}, and the recipe {recipe.name} is for {recipe.front_end}; "
            f"build the records with --front-end {recipe.front_end}, or choose another --recipe"
        )
    check_normalisation(recipe)


def _check_workers(recipe: Recipe, workers: Workers, identity: dict[str, Any]) -> None:
    n_workers = workers.share.of
    if sizes := sorted({part.batch_size for part in recipe.parts.values() if part.batch_size % n_workers}):
        raise TrainingError(
            f"batches of {', '.join(map(str, sizes))} examples cannot be divided among {n_workers} workers; start "
            "another number of workers, or give a recipe with another batch_size"
        )
    workers.check_equal(identity)


def _notes(records: RecordFolder, recipe: Recipe, sides: TrainValidation) -> Iterator[str]:
    if recipe.normalise == "speaker" and not any(manifest_column(records, sides.train, "speaker").unique().to_pylist()):
        yield "the recipe normalises by speaker, but the records name no speakers; the training statistics are used"
    if sides.n_copies:
        examples = pluralize(sides.n_copies, "training example")
        yield f"{examples} left out: the same audio is in the split validation or test, too"


def _checked_bundle(folder: Path) -> Bundle:
    bundle = open_bundle(folder)
    try:
        bundle.check()
    except BundleError as error:
        raise OutputError(f"{error}, or give --restart to train again from the start") from error
    return bundle


_FEATURES = "features"


def _is_output(name: str) -> bool:
    return name in BUNDLE_FILES | {*map(history_name, PARTS), VALIDATION, LOGS}


_KIND = OutputKind("a model bundle", DESCRIPTION, CHECKPOINTS, _is_output, lambda folder: open_bundle(folder).training)
