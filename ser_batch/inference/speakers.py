"""Statistics of each speaker, before anything is predicted: for bundles that normalise by speaker."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.table import Listing, recordings
from ser_batch.inference.predictions import PredictionOptions
from ser_batch.inference.predictor import Float64s
from ser_batch.inference.results import complete_results
from ser_batch.models.bundles import Bundle
from ser_batch.models.normalisation import scales_of_speakers
from ser_batch.runtime.engine import Engine


def collect_speaker_scales(
    listing: Listing,
    keys: pa.Array,
    bundle: Bundle,
    engine: Engine,
    folder: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Float32s]:
    """Every speaker's scale ``(2, features)``, from all recordings that name one and can be read.

    A first pass: it decodes all recordings once more than prediction does. Neither the number of workers nor their
    pace changes a digit.

    Args:
        listing: its recordings.
        keys: from `ser_batch.inference.results.keys_of`.
        bundle: one that normalises by speaker.
        engine: where recordings are decoded and transformed.
        folder: where the functionals are kept.
        on_progress: called with (recordings done, recordings in all).
    """
    reference = bundle.content.speaker_reference
    if reference is None:
        return {}
    options = PredictionOptions.functionals(bundle)
    complete = complete_results(listing, keys, options, engine, folder, on_progress=on_progress)

    def named() -> Iterator[tuple[str, Float64s]]:
        for recording, result in zip(recordings(listing.recordings), complete.results, strict=True):
            if not result.error:
                yield recording.speaker or "", result.rows[0, 2:]

    return scales_of_speakers(named(), reference)
