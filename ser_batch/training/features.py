"""Examples as a network learns from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.models.normalisation import Scale, random_speaker_scales, speaker_scales
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, manifest_rows
from ser_batch.training.input_pipeline import Preparation, TrainingData, read_batches

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


def graph_of(network: keras.Model) -> Callable[..., tf.Tensor]:
    """A network, traced once whatever the batch's size."""
    import tensorflow as tf

    signature = [tf.TensorSpec(one.shape, tf.float32) for one in network.inputs]

    def called(*inputs: tf.Tensor) -> tf.Tensor:
        return network(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    graph: Callable[..., tf.Tensor] = tf.function(called, input_signature=signature, autograph=False)
    return graph


_BATCH_SIZE = 32


class _FeatureSet:
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
