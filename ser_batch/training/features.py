"""The inputs of training and validation: examples or their features, with scales and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from sklearn.utils.class_weight import compute_class_weight

from ser_batch.audio.decoders import Float32s
from ser_batch.models.networks.families import build_extractor
from ser_batch.models.normalisation import (
    Scale,
    measure_scale,
    random_speaker_scales,
    speaker_scales,
    within_speakers,
)
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, manifest_column
from ser_batch.training.augmentation import augment, mixup
from ser_batch.training.input_pipeline import EpochOptions, Preparation, TrainingData, read_batches
from ser_batch.training.recipes import Recipe

_BATCH_SIZE = 32


def traced(network: keras.Model) -> Callable[..., tf.Tensor]:
    """The network's inference as a graph that is traced once for all batch sizes."""
    signature = [tf.TensorSpec(one.shape, tf.float32) for one in network.inputs]

    def called(*inputs: tf.Tensor) -> tf.Tensor:
        return network(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    graph: Callable[..., tf.Tensor] = tf.function(called, input_signature=signature, autograph=False)
    return graph


class FeatureSet:
    """Training or validation examples of one training: as stored, and augmented for training.

    Features of the stored examples are cached if they fit in memory, or if examples are normalised by speaker.

    Args:
        records: a finished record folder.
        selection: the examples to use.
        recipe: normalisation and augmentation.
        train_set: for validation examples, the training examples, which set the scale; None: these are the
            training examples.
        variance: of the features, in place of that of the training examples; None: it is measured.

    Attributes:
        records: the record folder.
        n_examples: number of examples.
        scale: of the training examples; None if the network does not standardise.
    """

    scale: Scale | None

    def __init__(
        self,
        records: RecordFolder,
        selection: Selection,
        recipe: Recipe,
        train_set: FeatureSet | None = None,
        variance: Float32s | None = None,
    ) -> None:
        self.records, self._selection, self._recipe = records, selection, recipe
        self._by_speaker = recipe.normalise == "speaker"
        self._kept: list[tuple[Float32s, NDArray[np.int64]]] = []
        self.n_examples = selection.n_examples
        if train_set is None:
            extractor = build_extractor(records.front_end, recipe)
            self._extract = traced(extractor) if extractor else None
            augmentation, self._mix = augment(recipe.augmentation, records.front_end), mixup(recipe.augmentation)
        else:
            self._extract, augmentation, self._mix = train_set._extract, None, None
        copies = recipe.copies if train_set is None else 1
        preparation = Preparation(augmentation, self._extract, copies, in_order=self._by_speaker)
        self._data = TrainingData(records, selection, preparation)
        self.scale = self._measured_scale() if train_set is None else train_set.scale
        if self.scale is not None and variance is not None:
            self.scale = Scale(self.scale.mean, variance)

    def training_epochs(self, seed: int, numbers: Sequence[int]) -> tf.data.Dataset:
        """The augmented batches of the given epochs; see `TrainingData.epochs`."""
        weights = self._label_weights() if self._recipe.class_weight == "balanced" else None
        options = EpochOptions(self._recipe.batch_size, seed, self._mix, self._random_speaker_scales(seed), weights)
        return self._data.epochs(options, numbers)

    def validation_epoch(self, seed: int) -> tf.data.Dataset:
        """Batches of the examples as stored, without augmentation."""
        scales = self._speaker_scales()
        of_epoch = None if scales is None else lambda _: scales
        return self._data.epochs(EpochOptions(self._recipe.batch_size, seed, scales=of_epoch), [0])

    def _batches(self) -> Iterator[tuple[Float32s, NDArray[np.int64]]]:
        """The examples as stored, or their features, with their labels."""
        if self._kept:
            yield from self._kept
            return
        keep = self._extract is not None and (self._data.fits or self._by_speaker)
        for batch in read_batches(self.records, self._selection, _BATCH_SIZE):
            pair = (self._extract(batch.log_mels).numpy() if self._extract else batch.log_mels, batch.labels)
            if keep:
                self._kept.append(pair)
            yield pair

    def _features(self) -> Float32s:
        return np.concatenate([examples for examples, _ in self._batches()])

    def _speakers(self) -> list[str]:
        speakers: list[str] = manifest_column(self.records, self._selection, "speaker").to_pylist()
        return speakers

    def _measured_scale(self) -> Scale | None:
        """Scale of the functionals, or of every mel band over all frames."""
        if self._recipe.normalise == "none":
            return None
        if self._by_speaker:
            return within_speakers(self._features(), self._speakers())
        examples = (examples for examples, _ in self._batches())
        if self._extract is None:
            n_mels = self.records.front_end.n_mels
            return measure_scale(log_mels.transpose(0, 2, 1).reshape(-1, n_mels) for log_mels in examples)
        return measure_scale(examples)

    def _speaker_scales(self) -> Float32s | None:
        """Scale of every example, from all examples of its speaker; None if not normalised by speaker."""
        if not self._by_speaker or self.scale is None:
            return None
        return speaker_scales(self._features(), self._speakers(), self.scale)

    def _random_speaker_scales(self, seed: int) -> Callable[[int], Float32s] | None:
        """Function from an epoch's number to the scale of every example, from some examples of its speaker."""
        scale = self.scale
        if not self._by_speaker or scale is None:
            return None
        features, speakers = self._features(), self._speakers()
        return lambda number: random_speaker_scales(features, speakers, scale, np.random.default_rng([seed, number]))

    def _label_weights(self) -> Float32s:
        """Weight of every label, float32 ``(labels,)``: labels count equally; the mean over examples is 1."""
        labels = [
            self.records.labels.index(label)
            for label in manifest_column(self.records, self._selection, "label").to_pylist()
        ]
        present = np.unique(labels)
        weights = np.ones(len(self.records.labels), np.float32)
        weights[present] = compute_class_weight("balanced", classes=present, y=labels)
        return weights
