"""The results of recordings, without a table."""

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ser_batch.corpus.table import Listing, Recording, make_table
from ser_batch.inference.embeddings import Embedded, EmbeddingOptions
from ser_batch.inference.predictions import Classifier, Prediction, classify, predictions_of
from ser_batch.inference.results import complete_results, keys_of
from ser_batch.models.bundles import Bundle, shipped_bundle
from ser_batch.runtime.engine import Engine


def results_of(recordings: Sequence[Recording], engine: Engine, options: EmbeddingOptions) -> list[Embedded]:
    """One for each recording, in order."""
    listing = Listing(make_table(recordings))
    with tempfile.TemporaryDirectory() as folder:
        complete = complete_results(listing, keys_of(listing), options, engine, Path(folder))
        return [replace(one, embeddings=one.embeddings[:]) for one in complete.results()]


def rows_of(
    recordings: Sequence[Recording], engine: Engine, options: EmbeddingOptions, windows: bool = False
) -> list[Prediction]:
    """The rows of all recordings, each predicted alone with the head of the shipped model."""
    return classified(recordings, results_of(recordings, engine, options), windows)


def classified(
    recordings: Sequence[Recording], results: Sequence[Embedded], windows: bool = False, bundle: Bundle | None = None
) -> list[Prediction]:
    """The rows of results, each predicted alone with the head of a bundle; None: of the shipped model."""
    figures = classify(results, None, Classifier.of(bundle or shipped_bundle()), windows)
    return [
        row
        for one, result, of_windows in zip(recordings, results, figures, strict=True)
        for row in predictions_of(result, one, of_windows, None, "")
    ]
