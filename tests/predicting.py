"""The results of recordings, without a table."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from ser_batch.corpus.table import Listing, Recording, make_table
from ser_batch.inference.predictions import PredictionOptions, Result
from ser_batch.inference.results import complete_results, keys_of
from ser_batch.runtime.engine import Engine


def results_of(recordings: Sequence[Recording], engine: Engine, options: PredictionOptions) -> list[Result]:
    """One for each recording, in order."""
    listing = Listing(make_table(recordings))
    with tempfile.TemporaryDirectory() as folder:
        return list(complete_results(listing, keys_of(listing), options, engine, Path(folder)).results)
