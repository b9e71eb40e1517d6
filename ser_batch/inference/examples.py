"""Predictions of the examples of a record folder, for evaluation. Workers of infer do not import this module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.errors import RecordsError
from ser_batch.inference.adaptation import find_groups
from ser_batch.inference.embeddings import Embedded, Float64s
from ser_batch.inference.predictions import Classifier, Prediction, classify
from ser_batch.models.bundles import Adaptation, Bundle
from ser_batch.records.examples import Example
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, manifest_rows, read_examples


@dataclass(frozen=True)
class LabelledPrediction:
    """A recording of a split with its true label and its prediction.

    Attributes:
        speaker: empty where unknown.
        label: index of the true label among those of the model; -1: the model does not have it.
        prediction: its probabilities are the mean over the windows.
    """

    speaker: str
    label: int
    prediction: Prediction


def predict_examples(
    bundle: Bundle,
    classifier: Classifier,
    records: RecordFolder,
    selection: Selection,
    adapt: Adaptation = "none",
) -> list[LabelledPrediction]:
    """Predict the recordings of a selection, in shard order.

    Args:
        bundle: the model; its encoder is used.
        classifier: of the bundle.
        records: with the front end of the bundle.
        selection: of the examples; windows of one recording are averaged.
        adapt: what the predictions are adapted to; the batch is the selection.
    """
    encoder = bundle.load_encoder()
    to_model = [bundle.labels.index(label) if label in bundle.labels else -1 for label in records.labels]
    found, embedded, labels = [], [], []
    pairs = _rows_and_examples(records, selection)
    for _, windows in itertools.groupby(pairs, key=lambda pair: pair[0]["recording"]):
        group = [(row, to_model[example.label], encoder(example.log_mel)) for row, example in windows]
        rows = [row for row, *_ in group]
        found.append(rows[0] | {"end": rows[-1]["end"]})
        labels.append(group[0][1])
        times = np.array([[row["start"], row["end"]] for row in rows])
        embedded.append(Embedded(times, np.stack([one for *_, one in group]), rows[0]["duration"]))
    names = [f"{row['file']}\0{row['start']}\0{row['end']}" for row in found]
    means = [one.mean for one in embedded]
    groups = find_groups(adapt, lambda: means, [row["speaker"] for row in found], names, classifier.arrays)
    scales = groups.of(range(len(found)))
    figures = classify(embedded, scales, classifier, batch_temperature=groups.temperature)
    return [
        _labelled(row, label, one, of_row)
        for row, label, one, of_row in zip(found, labels, embedded, figures, strict=True)
    ]


def _labelled(row: dict[str, Any], label: int, embedded: Embedded, figures: Float64s) -> LabelledPrediction:
    *probabilities, novelty = figures[0].tolist()
    shown = (tuple(probabilities), embedded.duration_secs, novelty)
    return LabelledPrediction(row["speaker"], label, Prediction(row["file"], row["start"], row["end"], *shown))


def _rows_and_examples(records: RecordFolder, selection: Selection) -> Iterator[tuple[dict[str, Any], Example]]:
    """The examples of a selection, each with its manifest row."""
    columns = ("file", "start", "end", "speaker", "duration", "recording")
    tables = manifest_rows(records, selection, *columns)
    rows = (row for table in tables for row in table.to_pylist())
    for example in read_examples(records, selection):
        row = next(rows, None)
        if row is None:
            raise RecordsError(f"{records.path}: the manifest has fewer rows than the shards have examples; run verify")
        yield row, example
