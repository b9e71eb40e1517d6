"""First pass of an inference: statistics of each speaker, for bundles that normalise by speaker."""

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
    """The scale of each speaker, float32 ``(2, features)``, from readable recordings.

    This pass decodes all recordings; prediction decodes them again. The result does not depend on the number of
    workers.

    Args:
        listing: its recordings.
        keys: from `ser_batch.inference.results.keys_of`.
        bundle: with normalisation by speaker.
        engine: runs the tasks.
        folder: for the parts with the functionals.
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
