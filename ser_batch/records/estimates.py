"""Estimates of a build's size and duration, measured on a few recordings."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording, recordings, selected
from ser_batch.errors import AudioError
from ser_batch.records.plan import BuildPlan
from ser_batch.runtime.engine import Engine

_SAMPLE_SIZE = 32
_OVERHEAD_BYTES = 200


@dataclass(frozen=True)
class Estimate:
    """Expected size and duration of a build.

    Attributes:
        examples: number of examples.
        size_bytes: of all shards.
        secs: processing time in seconds, summed over all workers.
        measured: number of recordings in the sample.
        unusable: number of unusable recordings in the sample.
    """

    examples: int
    size_bytes: int
    secs: float
    measured: int
    unusable: int


def estimate_build(plan: BuildPlan, engine: Engine) -> Estimate:
    """Compute the log-mels of a sample spread over the plan, and scale the result to all recordings."""
    chosen = np.arange(0, len(plan.recordings), max(len(plan.recordings) // _SAMPLE_SIZE, 1))[:_SAMPLE_SIZE]
    sample = list(recordings(selected(plan.recordings, chosen)))
    windows = size_bytes = unusable = 0
    secs = 0.0
    for outcome in engine.map(partial(_measure, front_end=plan.front_end), [sample]):
        windows, size_bytes, unusable, secs = outcome.result or (0, 0, len(sample), 0.0)
    scale = len(plan.recordings) / len(sample)
    return Estimate(round(windows * scale), round(size_bytes * scale), secs * scale, len(sample), unusable)


def _measure(sample: Sequence[Recording], front_end: FrontEnd) -> tuple[int, int, int, float]:
    """Windows, their bytes, unusable recordings, and seconds; the first recording is a warm-up and is not timed."""
    windows = size_bytes = unusable = 0
    began = time.perf_counter()
    for number, recording in enumerate(sample):
        try:
            for window in LogMelWindows(recording, front_end):
                windows += 1
                size_bytes += window.log_mel.nbytes + _OVERHEAD_BYTES
        except AudioError:
            unusable += 1
        if number == 0:
            began = time.perf_counter()
    timed = max(len(sample) - 1, 1)
    return windows, size_bytes, unusable, (time.perf_counter() - began) * len(sample) / timed
