"""What is known of each speaker before anything is predicted: for bundles that normalise by speaker."""

from collections.abc import Callable, Iterator

from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.table import Recordings
from ser_batch.inference.predictions import PredictionOptions, predict_in_order
from ser_batch.inference.predictor import Float64s
from ser_batch.models.bundles import Bundle
from ser_batch.models.normalisation import scales_of_speakers
from ser_batch.runtime.engine import Engine


def collect_speaker_scales(
    recordings: Recordings,
    bundle: Bundle,
    engine: Engine,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Float32s]:
    """Every speaker's scale ``(2, features)``, from all recordings that name one and can be read.

    It decodes them all, once more than prediction does. Neither the number of workers nor their pace changes
    a digit.

    Args:
        recordings: of one listing.
        bundle: one that normalises by speaker.
        engine: where recordings are decoded and transformed.
        on_progress: called with (recordings done, recordings in all).
    """
    reference = bundle.content.speaker_reference
    if reference is None:
        return {}
    results = predict_in_order(recordings, PredictionOptions.functionals(bundle), engine)

    def named() -> Iterator[tuple[str, Float64s]]:
        for done, result in enumerate(results, 1):
            on_progress(done, len(recordings))
            if not result.error:
                yield recordings[result.number].speaker or "", result.rows[0, 2:]

    return scales_of_speakers(named(), reference)
