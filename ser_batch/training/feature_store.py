"""Features of examples, extracted once and kept in files, for networks whose first part has no weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB
from ser_batch.errors import RecordsError
from ser_batch.models.networks.families import build_extractor
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection
from ser_batch.storage.fingerprints import json_fingerprint
from ser_batch.storage.writing import open_atomically
from ser_batch.training.augmentation import augment
from ser_batch.training.input_pipeline import (
    damage_as_records_error,
    parsed_examples,
    seed_number,
    serialized_examples,
    without_autograph,
)
from ser_batch.training.recipes import Recipe

_BATCH_SIZE = 32


def traced(network: keras.Model) -> Callable[..., tf.Tensor]:
    """The network's inference as a graph that is traced once for all batch sizes."""
    signature = [tf.TensorSpec(one.shape, tf.float32) for one in network.inputs]

    def called(*inputs: tf.Tensor) -> tf.Tensor:
        return network(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    graph: Callable[..., tf.Tensor] = tf.function(called, input_signature=signature, autograph=False)
    return graph


def copy_seeds(recipe: Recipe, seed: int, epochs: Sequence[int]) -> list[int]:
    """The augmentation seed of the copy that each epoch uses; there are ``recipe.copies`` copies, used in turn."""
    return [seed_number(seed, epoch % recipe.copies) for epoch in epochs]


class FeatureStore:
    """Features of the examples of a record folder: as stored, and of augmented copies.

    One NumPy file holds one copy of all examples of some shards. It is written once, whole or not at all, and mapped
    to memory, so that features may be larger than memory. The features of an example depend on the shards that are
    used with it, and not on the examples that are selected from them: all folds of a cross-validation share the files.

    Args:
        folder: of the files; created when the first is written.
        records: a finished record folder.
        recipe: network and augmentation, with the network ``functionals``.
        on_progress: called with the number of examples that were extracted so far, copies included.

    Attributes:
        records: the record folder.
    """

    def __init__(
        self, folder: Path, records: RecordFolder, recipe: Recipe, on_progress: Callable[[int], Any] = lambda done: None
    ) -> None:
        self._folder, self.records, self._recipe, self._on_progress = folder, records, recipe, on_progress
        self._n_extracted = 0

    def load(self, selection: Selection, copy_seed: int | None = None) -> Float32s:
        """The features of all examples of the selection's shards, float32 ``(examples, features)``, read-only.

        Args:
            selection: names the shards.
            copy_seed: of the augmentation; None: the examples as stored.

        Raises:
            RecordsError: a shard is damaged.
        """
        shards = json_fingerprint([shard.name for shard in selection.shards])[:12]
        path = self._folder / f"{'stored' if copy_seed is None else copy_seed}-{shards}.npy"
        if not path.exists():
            self._write(path, Selection(selection.name, selection.shards), copy_seed)
        features: Float32s = np.load(path, mmap_mode="r")
        return features

    @cached_property
    def _extractor(self) -> keras.Model:
        extractor = build_extractor(self.records.front_end, self._recipe)
        assert extractor is not None
        return extractor

    @cached_property
    def _extract(self) -> Callable[[Any], tf.Tensor]:
        return traced(self._extractor)

    def _write(self, path: Path, selection: Selection, copy_seed: int | None) -> None:
        augmentation = None
        if copy_seed is not None:
            augmentation = augment(self._recipe.augmentation, self.records.front_end)
        serialized = serialized_examples(self.records, selection, 1)
        examples = parsed_examples(serialized.enumerate(), self.records, augmentation, copy_seed or 0)
        log_mels = examples.map(without_autograph(lambda index, log_mel, label: log_mel))
        batches = log_mels.padded_batch(_BATCH_SIZE, padding_values=PADDING_DB)
        shape, n_written = (selection.n_examples, self._extractor.output_shape[-1]), 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._on_progress(self._n_extracted)
        with damage_as_records_error(self.records), open_atomically(path, "wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
            for features in batches.map(self._extract, num_parallel_calls=tf.data.AUTOTUNE).prefetch(2):
                file.write(features.numpy().tobytes())
                n_written += len(features)
                self._n_extracted += len(features)
                self._on_progress(self._n_extracted)
            if n_written != selection.n_examples:
                raise RecordsError(
                    f"{self.records.path}: holds other examples than its manifest lists; run ser-batch verify to list "
                    "all problems"
                )
