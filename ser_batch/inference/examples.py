"""Predictions of the examples of a record folder, for evaluation. Workers of infer do not import this module."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.errors import RecordsError
from ser_batch.inference.predictions import Prediction
from ser_batch.inference.predictor import Predictor
from ser_batch.models.bundles import Bundle
from ser_batch.models.normalisation import scales_of_speakers
from ser_batch.records.examples import Example
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, manifest_rows, read_examples


@dataclass(frozen=True)
class LabelledPrediction:
    """A recording of a split with its true label and its prediction.

    Attributes:
        speaker: empty where unknown.
        label: index of the true label.
        prediction: its probabilities are the mean over the windows.
    """

    speaker: str
    label: int
    prediction: Prediction


def predict_examples(
    bundle: Bundle, predictor: Predictor, records: RecordFolder, selection: Selection
) -> Iterator[LabelledPrediction]:
    """Predict the recordings of a selection, in shard order; windows of one recording are averaged.

    For a bundle that normalises by speaker, the statistics use all examples of the speaker in the selection.
    """
    scales = _speaker_scales(predictor, bundle, records, selection)
    to_model = [bundle.labels.index(label) for label in records.labels]
    pairs = _rows_and_examples(records, selection)
    for _, windows in itertools.groupby(pairs, key=lambda pair: pair[0]["recording"]):
        group = [(row, example, predictor(example.log_mel, scales.get(row["speaker"]))) for row, example in windows]
        (first, example, _), (last, *_) = group[0], group[-1]
        *probabilities, novelty = np.mean([figures for *_, figures in group], axis=0).tolist()
        figures = (tuple(probabilities), first["duration"], novelty)
        prediction = Prediction(first["file"], first["start"], last["end"], *figures)
        yield LabelledPrediction(first["speaker"], to_model[example.label], prediction)


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


def _speaker_scales(
    predictor: Predictor, bundle: Bundle, records: RecordFolder, selection: Selection
) -> dict[str, Float32s]:
    reference = bundle.content.speaker_reference
    if reference is None:
        return {}
    pairs = _rows_and_examples(records, selection)
    return scales_of_speakers(
        ((row["speaker"], predictor.functionals(example.log_mel)) for row, example in pairs), reference
    )
