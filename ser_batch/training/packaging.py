"""From a finished training to a bundle: weights, calibration, novelty, voices and provenance."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ser_batch import __version__
from ser_batch.audio.decoders import Float32s
from ser_batch.formatting import format_timestamp
from ser_batch.models.agreement import fit_agreement
from ser_batch.models.bundles import Bundle, BundleArrays, BundleContent, Calibration, save_bundle
from ser_batch.models.calibration import fit_temperature
from ser_batch.models.heads import SMALLEST_VARIANCE, Head
from ser_batch.models.networks.families import build_learner, build_network, encoder_of, head_of
from ser_batch.models.normalisation import (
    GroupStatistics,
    Scale,
    SpeakerScales,
    measure_scale,
    scale_to,
    shrunk,
    within_speakers,
)
from ser_batch.models.novelty import fit_novelty
from ser_batch.models.voices import VoiceSpace, fit_voice_space
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, TrainValidation, manifest_column
from ser_batch.storage.writing import open_atomically, write_rows
from ser_batch.training.feature_store import FeatureStore, traced
from ser_batch.training.features import example_labels, selected_features, selected_rows
from ser_batch.training.input_pipeline import read_batches
from ser_batch.training.recipes import VALIDATION, Recipe
from ser_batch.training.trainer import CHECKPOINTS

# Examples that each part is evaluated on at once: a CRNN on one, because padding would change its features a little.
_BATCH_SIZES = (32, 1)


# The most training examples that scales of a CRNN, novelty and voices are fitted to.
_MOST_EXAMPLES = 20_000


class TrainedPart(NamedTuple):
    """A trained part of a network.

    Attributes:
        recipe: of its training.
        weights: of its learner, see `build_learner`.
        scale: of its features; None: they are not standardised.
        last_epoch: metrics.
    """

    recipe: Recipe
    weights: list[Float32s]
    scale: Scale | None
    last_epoch: dict[str, float]


class _Embeddings(NamedTuple):
    """Embeddings ``(n, features)``, and labels and speakers ``(n,)`` of some examples."""

    values: Float32s
    labels: NDArray[np.int64]
    speakers: list[str]


def package(
    folder: Path,
    store: FeatureStore,
    sides: TrainValidation,
    recipe: Recipe,
    trained: Sequence[TrainedPart],
    identity: dict[str, Any],
) -> Bundle:
    """Write the bundle, and remove the checkpoints.

    Args:
        folder: of the bundle.
        store: of the functionals of the records that the network was trained on.
        sides: training examples, to fit novelty, voices and agreement; validation examples, to fit temperatures.
        recipe: of the training.
        trained: the parts of the network, as in ``recipe.parts``.
        identity: JSON that is added to the provenance.
    """
    records = store.records
    encoders = _encoders(records, trained)
    stored = store if recipe.network == "functionals" else None
    examples = _embed(encoders, records, _evenly(sides.train, _MOST_EXAMPLES), stored)
    network, scale = _whole_network(records, recipe, trained, examples)
    head = head_of(network, scale)
    provenance = identity | {
        "records_path": records.path.name,
        "n_examples": {
            "train": sides.train.n_examples,
            "validation": sides.validation.n_examples if sides.validation else 0,
        },
        "last_epoch": trained[0].last_epoch,
        "parameters": network.count_params(),
        "versions": {"ser-batch": __version__, "tensorflow": tf.__version__, "keras": keras.__version__},
    }
    by_speaker = recipe.normalise == "speaker"
    arrays = _arrays(head, examples, by_speaker, encoders[0].output.shape[-1])
    calibration = Calibration(temperature=1.0, fitted_on=None)
    if sides.validation is not None:
        held_out = _embed(encoders, records, sides.validation, stored)
        calibration = _calibrate(folder, arrays, by_speaker, held_out, records, sides.validation)
    content = BundleContent(
        labels=records.labels,
        front_end=records.front_end,
        calibration=calibration,
        speaker_normalised=by_speaker,
        training=provenance,
    )
    bundle = save_bundle(folder, network, encoder_of(network), arrays, content)
    shutil.rmtree(folder / CHECKPOINTS)
    return bundle


def _encoders(records: RecordFolder, trained: Sequence[TrainedPart]) -> list[keras.Model]:
    """The encoder of each part, from log-mels to features, with its trained weights."""
    found = []
    for part in trained:
        network = build_network(records.front_end, len(records.labels), part.recipe, part.scale)
        network.set_weights(part.weights)
        found.append(encoder_of(network))
    return found


def _embed(
    encoders: Sequence[keras.Model], records: RecordFolder, selection: Selection, store: FeatureStore | None
) -> _Embeddings:
    """The features of all parts side by side; those of the first are in the store, if there is one."""
    columns = [selected_features(store, selection)] if store else []
    for place, encoder in list(enumerate(encoders))[len(columns) :]:
        graph, size = traced(encoder), _BATCH_SIZES[place]
        columns.append(np.concatenate([graph(one.log_mels) for one in read_batches(records, selection, size)]))
    labels = example_labels(records, selection)
    speakers = manifest_column(records, selection, "speaker").to_pylist()
    return _Embeddings(np.concatenate(columns, axis=1), labels, speakers)


def _evenly(selection: Selection, most: int) -> Selection:
    """At most so many of the selected examples, evenly spaced."""
    rows = selected_rows(selection)
    if len(rows) <= most:
        return selection
    chosen = np.zeros(sum(shard.examples for shard in selection.shards), np.bool_)
    chosen[rows[np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]] = True
    return Selection(selection.name, selection.shards, chosen)


def _whole_network(
    records: RecordFolder, recipe: Recipe, trained: Sequence[TrainedPart], examples: _Embeddings
) -> tuple[keras.Model, Scale | None]:
    """The network with its trained weights, and the scale of its embeddings.

    With a CRNN beside the functionals, one softmax layer stands on the features of both; its logits are the weighted
    mean of the logits of both. The CRNN has no bias there: at the mean of its features over the training examples, its
    logits are equal. Other speakers' features are closer to this mean, and a bias would outweigh them.
    """
    n_labels, first = len(records.labels), trained[0]
    if len(trained) == 1:
        network = build_network(records.front_end, n_labels, recipe, first.scale)
        network.set_weights(first.weights)
        return network, first.scale if recipe.network == "functionals" else None
    assert first.scale is not None
    assert recipe.crnn is not None
    learner = build_learner(records.front_end, n_labels, trained[1].recipe, None)
    learner.set_weights(trained[1].weights)
    of_crnn = examples.values[:, len(first.scale.mean) :]
    by_speaker = recipe.normalise == "speaker"
    own = within_speakers(of_crnn, examples.speakers) if by_speaker else measure_scale([of_crnn])
    scale = Scale(np.concatenate([first.scale.mean, own.mean]), np.concatenate([first.scale.variance, own.variance]))
    network = build_network(records.front_end, n_labels, recipe, scale, learner.get_layer("crnn"))
    share, (kernel, _) = recipe.crnn.share, learner.get_layer("emotion").get_weights()
    deviation = np.sqrt(own.variance + SMALLEST_VARIANCE)
    merged = np.concatenate([(1.0 - share) * first.weights[0], share * deviation[:, None] * kernel])
    network.get_layer("emotion").set_weights([merged, (1.0 - share) * first.weights[1]])
    return network, scale


def _arrays(head: Head, examples: _Embeddings, by_speaker: bool, n_fitted: int) -> BundleArrays:
    """Head, novelty, voice space and agreement.

    Novelty and agreement are fitted to recordings that are normalised by their speaker, and to the same recordings
    alone. None of the three uses the features of a CRNN, which fit the training examples too closely.

    Args:
        head: of the network.
        examples: that it was trained on.
        by_speaker: whether examples are normalised by speaker.
        n_fitted: number of features that novelty, voices and agreement use.
    """
    alone = head.features(examples.values)[:, :n_fitted]
    versions, voices, agreement = [alone], None, None
    if by_speaker:
        of_speakers = SpeakerScales(examples.values, examples.speakers, head.reference)
        scales = of_speakers.of_speakers(range(len(examples.values)))
        adapted = head.features(examples.values, scales)[:, :n_fitted]
        versions.append(adapted)
        voices = _voice_space(head, examples, n_fitted)
        agreement = fit_agreement(alone, adapted, examples.labels, examples.speakers, head.kernel.shape[1])
    novelty = fit_novelty(lambda: [(version, examples.labels) for version in versions])
    return BundleArrays(head, novelty, voices, agreement)


def _voice_space(head: Head, examples: _Embeddings, n_fitted: int) -> VoiceSpace | None:
    """The voice space of examples that are normalised as one batch; None without speakers."""
    batch = shrunk(GroupStatistics().add(examples.values), head.reference, 0.0)
    scale = scale_to(batch, head.reference)
    return fit_voice_space(head.features(examples.values, scale[None])[:, :n_fitted], examples.speakers)


def _calibrate(
    folder: Path,
    arrays: BundleArrays,
    by_speaker: bool,
    examples: _Embeddings,
    records: RecordFolder,
    validation: Selection,
) -> Calibration:
    """The temperatures of recordings that are predicted alone, and of recordings that are adapted to their speaker.

    Adapted predictions are right more often, and hardly more confident. The predictions of the recordings alone go to
    `VALIDATION` in the bundle.
    """
    head = arrays.head
    features = head.features(examples.values)
    probabilities, novelties = arrays.probabilities(features), arrays.novelty.of(features)
    files, starts = (manifest_column(records, validation, name).to_pylist() for name in ("file", "start"))
    with open_atomically(folder / VALIDATION) as file:
        write_rows(
            file, [["file", "start", "speaker", "label", "novelty", *(f"p_{label}" for label in records.labels)]]
        )
        figures = np.column_stack([novelties, probabilities])
        columns = (files, map(format_timestamp, starts), examples.speakers, examples.labels, figures)
        for name, start, speaker, label, row in zip(*columns, strict=True):
            write_rows(file, [[name, start, speaker or "", records.labels[label], *(f"{value:.6f}" for value in row)]])
    temperature = fit_temperature(probabilities, examples.labels, examples.speakers)
    if temperature is None:
        return Calibration(temperature=1.0, fitted_on=None)
    adapted = None
    if by_speaker and "" not in examples.speakers:
        of_speakers = SpeakerScales(examples.values, examples.speakers, head.reference)
        scales = of_speakers.of_speakers(range(len(examples.values)))
        probabilities = arrays.probabilities(head.features(examples.values, scales))
        adapted = fit_temperature(probabilities, examples.labels, examples.speakers)
    return Calibration(temperature=temperature, fitted_on=validation.n_examples, adapted_temperature=adapted)
