"""What is known of each speaker before anything is predicted: for bundles that normalise by speaker."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.recordings import Recording
from ser_batch.audio.waveforms import Float32s
from ser_batch.audio.windows import LogMelWindows
from ser_batch.errors import AudioError
from ser_batch.models.crnn import InputScale
from ser_batch.models.speakers import speaker_scale
from ser_batch.records.datasets import band_sums
from ser_batch.tasks import Engine, expect_progress

_RECORDINGS_PER_TASK = 32

# Of one recording: frames, then the sums of every band, then those of their squares.
_Sums = NDArray[np.float64]


def hear_speakers(
    recordings: Sequence[Recording],
    front_end: FrontEnd,
    reference: InputScale,
    engine: Engine,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Float32s]:
    """Every speaker's scale ``(2, n_mels)``, from all recordings that name one and can be read.

    It decodes them all, once more than prediction does. Neither the number of workers nor their pace changes
    a digit.

    Args:
        recordings: of one listing.
        front_end: the bundle's.
        reference: what every speaker is brought to.
        engine: where audio is decoded and transformed.
        on_progress: called with (recordings done, recordings in all).
    """
    known = [recording for recording in recordings if recording.speaker]
    sums: defaultdict[str, _Sums] = defaultdict(lambda: np.zeros(1 + 2 * front_end.n_mels))
    for done, (recording, of_recording) in enumerate(_in_order(known, front_end, engine), 1):
        sums[recording.speaker or ""] += of_recording
        on_progress(done, len(known))
    bands = front_end.n_mels
    return {
        speaker: speaker_scale(float(total[0]), total[1 : 1 + bands], total[1 + bands :], reference)
        for speaker, total in sums.items()
    }


def _in_order(
    recordings: Sequence[Recording], front_end: FrontEnd, engine: Engine
) -> Iterator[tuple[Recording, _Sums]]:
    size = _RECORDINGS_PER_TASK
    tasks = [(at, tuple(recordings[at : at + size])) for at in range(0, len(recordings), size)]
    ready: dict[int, Sequence[_Sums]] = {}
    expected = 0
    for outcome in engine.map(partial(_task_sums, front_end=front_end), tasks):
        at, part = outcome.task
        # What ends its worker will get its row when it is predicted; here it and its neighbours are not heard.
        nothing = [np.zeros(1 + 2 * front_end.n_mels)] * len(part)
        ready[at] = nothing if outcome.result is None else outcome.result
        while expected in ready:
            sums = ready.pop(expected)
            yield from zip(recordings[expected : expected + len(sums)], sums, strict=True)
            expected += len(sums)


def _task_sums(task: tuple[int, tuple[Recording, ...]], front_end: FrontEnd) -> list[_Sums]:
    return [_recording_sums(recording, front_end) for recording in task[1]]


def _recording_sums(recording: Recording, front_end: FrontEnd) -> _Sums:
    total = np.zeros(1 + 2 * front_end.n_mels)
    try:
        expect_progress()
        for window in LogMelWindows(recording, front_end):
            sums = band_sums(window.log_mel[None])
            total += np.concatenate([sums.frames, sums.totals[0], sums.squares[0]])
            expect_progress()
    except AudioError:  # its row will say why
        return np.zeros_like(total)
    finally:
        expect_progress(0)
    return total
