"""The inputs of training and validation: log-mels or functionals, with scales and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from ser_batch.audio.decoders import Float32s
from ser_batch.models.normalisation import Scale, SpeakerScales, measure_scale, within_speakers
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, manifest_column
from ser_batch.training.augmentation import augment, mixup
from ser_batch.training.feature_store import FeatureStore, copy_seeds
from ser_batch.training.input_pipeline import EpochOptions, TrainingData, read_batches
from ser_batch.training.recipes import Recipe
from ser_batch.training.workers import WHOLE, Share

_BATCH_SIZE = 32


class ExampleSet(Protocol):
    """Training or validation examples of one training.

    Batches are ``(inputs of the network, one-hot labels (batch, labels), weights (batch,))``. All epochs are one
    dataset, in order, and an epoch does not depend on earlier ones: a resumed training gets the same batches.

    Attributes:
        records: the record folder.
        n_examples: number of examples.
        scale: of the training examples; None if the network does not standardise.
    """

    records: RecordFolder
    n_examples: int
    scale: Scale | None

    def training_epochs(self, seed: int, numbers: Sequence[int], share: Share = WHOLE) -> tf.data.Dataset:
        """The augmented batches of the given epochs, with a worker's examples only."""
        ...

    def validation_epoch(self, seed: int) -> tf.data.Dataset:
        """Batches of the examples as stored, without augmentation."""
        ...


class LogMelSet:
    """Log-mels, for networks that are trained as a whole; see `ExampleSet`.

    Args:
        records: a finished record folder.
        selection: the examples to use.
        recipe: normalisation and augmentation.
        train_set: for validation examples, the training examples, which set the scale; None: these are the
            training examples.
    """

    def __init__(
        self, records: RecordFolder, selection: Selection, recipe: Recipe, train_set: ExampleSet | None = None
    ) -> None:
        self.records, self._selection, self._recipe = records, selection, recipe
        self.n_examples = selection.n_examples
        augmentation = augment(recipe.augmentation, records.front_end) if train_set is None else None
        self._data = TrainingData(records, selection, augmentation)
        self.scale = self._measured_scale() if train_set is None else train_set.scale

    def training_epochs(self, seed: int, numbers: Sequence[int], share: Share = WHOLE) -> tf.data.Dataset:
        """See `ExampleSet`."""
        weights = label_weights(self.records, self._selection, self._recipe)
        options = EpochOptions(self._recipe.batch_size, seed, mixup(self._recipe.augmentation), weights, share)
        return self._data.epochs(options, numbers)

    def validation_epoch(self, seed: int) -> tf.data.Dataset:
        """See `ExampleSet`."""
        return self._data.epochs(EpochOptions(self._recipe.batch_size, seed), [0])

    def _measured_scale(self) -> Scale | None:
        """Scale of every mel band over all frames."""
        if self._recipe.normalise == "none":
            return None
        n_mels = self.records.front_end.n_mels
        batches = read_batches(self.records, self._selection, _BATCH_SIZE)
        return measure_scale(batch.log_mels.transpose(0, 2, 1).reshape(-1, n_mels) for batch in batches)


class FunctionalSet:
    """Functionals, for the softmax layer on them; see `ExampleSet`.

    Args:
        store: of the functionals.
        selection: the examples to use.
        recipe: normalisation and augmentation.
        train_set: for validation examples, the training examples, which set the scale; None: these are the
            training examples.
        variance: of the functionals, in place of that of the training examples; None: it is measured.
    """

    scale: Scale | None

    def __init__(
        self,
        store: FeatureStore,
        selection: Selection,
        recipe: Recipe,
        train_set: ExampleSet | None = None,
        variance: Float32s | None = None,
    ) -> None:
        self.records, self._store, self._selection, self._recipe = store.records, store, selection, recipe
        self.n_examples = selection.n_examples
        self._labels = example_labels(self.records, selection)
        self._features = selected_features(store, selection)
        speakers = manifest_column(self.records, selection, "speaker").to_pylist()
        by_speaker = recipe.normalise == "speaker"
        if train_set is None:
            scale = within_speakers(self._features, speakers) if by_speaker else measure_scale(self._parts())
            self.scale = scale if variance is None else Scale(scale.mean, variance)
        else:
            self.scale = train_set.scale
        assert self.scale is not None  # see `check_normalisation`
        self._speaker_scales = SpeakerScales(self._features, speakers, self.scale) if by_speaker else None

    def training_epochs(self, seed: int, numbers: Sequence[int], share: Share = WHOLE) -> tf.data.Dataset:
        """See `ExampleSet`; features of all copies that the epochs use are extracted first."""
        of_epoch = dict(zip(numbers, copy_seeds(self._recipe, seed, numbers), strict=True))
        copies = {one: self._store.load(self._selection, one) for one in sorted({*of_epoch.values()})}
        rows = selected_rows(self._selection)
        weights = label_weights(self.records, self._selection, self._recipe)

        def batches() -> Iterator[Any]:
            for number in numbers:
                features, random = copies[of_epoch[number]], np.random.default_rng([seed, number])
                for chosen in self._slices(random.permutation(self.n_examples)):
                    own, own_weights = share.rows(len(chosen))
                    inputs: Any = features[rows[chosen[own]]]
                    if self._speaker_scales is not None:
                        inputs = inputs, self._speaker_scales.of_random_examples(chosen, random)[own]
                    labels, label_weights = self._targets(chosen[own], weights)
                    yield inputs, labels, label_weights * own_weights

        return self._dataset(batches)

    def validation_epoch(self, seed: int) -> tf.data.Dataset:
        """See `ExampleSet`."""

        def batches() -> Iterator[Any]:
            for chosen in self._slices(np.arange(self.n_examples)):
                inputs: Any = self._features[chosen]
                if self._speaker_scales is not None:
                    inputs = inputs, self._speaker_scales.of_speakers(chosen)
                yield inputs, *self._targets(chosen, None)

        return self._dataset(batches)

    def _targets(self, chosen: NDArray[np.int64], label_weights: Float32s | None) -> tuple[Float32s, Float32s]:
        """One-hot labels and weights of some examples."""
        labels = self._labels[chosen]
        weights = np.ones(len(labels), np.float32) if label_weights is None else label_weights[labels]
        return np.eye(len(self.records.labels), dtype=np.float32)[labels], weights

    def _dataset(self, batches: Callable[[], Iterator[Any]]) -> tf.data.Dataset:
        width = self._features.shape[1]
        features, scales = tf.TensorSpec((None, width)), tf.TensorSpec((None, 2, width))
        inputs = features if self._speaker_scales is None else (features, scales)
        signature = (inputs, tf.TensorSpec((None, len(self.records.labels))), tf.TensorSpec((None,)))
        return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(tf.data.AUTOTUNE)

    def _slices(self, order: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
        size = self._recipe.batch_size
        return (order[begin : begin + size] for begin in range(0, len(order), size))

    def _parts(self) -> Iterator[Float32s]:
        return (self._features[begin : begin + 1024] for begin in range(0, self.n_examples, 1024))


def selected_rows(selection: Selection) -> NDArray[np.int64]:
    """Places of the selected examples among all examples of the selection's shards."""
    return np.arange(selection.n_examples) if selection.chosen is None else np.flatnonzero(selection.chosen)


def selected_features(store: FeatureStore, selection: Selection) -> Float32s:
    """Features of the selected examples as stored, float32 ``(examples, features)``."""
    features = store.load(selection)
    return features if selection.chosen is None else features[selection.chosen]


def example_labels(records: RecordFolder, selection: Selection) -> NDArray[np.int64]:
    """Labels of the selected examples, ``(examples,)``, indices into the record folder's labels."""
    places = {label: place for place, label in enumerate(records.labels)}
    return np.array([places[label] for label in manifest_column(records, selection, "label").to_pylist()], np.int64)


def label_weights(records: RecordFolder, selection: Selection, recipe: Recipe) -> Float32s | None:
    """Weight of every label, float32 ``(labels,)``: labels count equally; the mean over examples is 1.

    None: the recipe gives all examples the same weight.
    """
    if recipe.class_weight != "balanced":
        return None
    labels = example_labels(records, selection)
    present = np.unique(labels)
    weights = np.ones(len(records.labels), np.float32)
    weights[present] = compute_class_weight("balanced", classes=present, y=labels)
    return weights
