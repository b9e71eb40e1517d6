"""From recordings and a bundle to a stream of predictions, one per recording and in its order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.recordings import Recording
from ser_batch.audio.waveforms import Float32s
from ser_batch.audio.windows import LogMelWindows
from ser_batch.errors import AudioError
from ser_batch.models.bundles import Bundle
from ser_batch.models.calibration import apply_temperature
from ser_batch.tasks import Engine, expect_progress

# A task is small, so that a folder of a dozen files keeps all workers busy; a batch gathers several.
_RECORDINGS_PER_TASK = 8
_RECORDINGS_PER_ROUND = 2048


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one recording, or why it says nothing.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        probabilities: one per label, in the bundle's order, summing to 1.
        duration_secs: of the part.
        warnings: codes of what a user should know.
        error: empty, or why there is no prediction; then all other fields but ``file`` are void.
    """

    file: str
    start_secs: float = 0.0
    end_secs: float = 0.0
    probabilities: tuple[float, ...] = ()
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Features:
    """A recording's windows, float32 ``(windows, n_mels, n_frames)``, or why there are none."""

    recording: Recording
    log_mels: Float32s | None
    end_secs: float = 0.0
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""


Network = Callable[[Float32s], NDArray[np.float64]]


def load_predictor(bundle: Bundle, calibrated: bool = True) -> Network:
    """A function from log-mels ``(batch, n_mels, n_frames)`` to probabilities ``(batch, labels)``.

    Shorter log-mels are padded as `ser_batch.audio.logmels.stack` does.

    Args:
        bundle: whose network.
        calibrated: at the bundle's temperature, not as the network gives them.

    Raises:
        BundleError: the bundle is damaged.
    """
    import tensorflow as tf

    network = bundle.load_network()
    temperature = bundle.content.temperature if calibrated else 1.0
    signature = tf.TensorSpec((None, *bundle.front_end.shape), tf.float32)
    graph = tf.function(lambda log_mels: network(log_mels, training=False), input_signature=[signature])

    def predict(log_mels: Float32s) -> NDArray[np.float64]:
        return apply_temperature(graph(tf.constant(log_mels)).numpy(), temperature)

    return predict


def predict_recordings(
    recordings: Sequence[Recording], front_end: FrontEnd, network: Network, engine: Engine, batch_size: int = 32
) -> Iterator[Prediction]:
    """One prediction per recording, in order, whatever happens to a file or a worker.

    A recording of several windows gets the mean of their probabilities. Batches are fixed blocks of the
    windows in order, so the number of workers changes nothing.

    Args:
        recordings: what to predict.
        front_end: the bundle's.
        network: from `load_predictor`.
        engine: where audio is decoded and transformed.
        batch_size: windows the network sees at once.
    """
    waiting: list[_Features] = []
    n_windows = 0
    for features in _features_in_order(recordings, front_end, engine):
        waiting.append(features)
        n_windows += 0 if features.log_mels is None else len(features.log_mels)
        if n_windows >= batch_size:
            yield from _predicted(waiting, network, batch_size)
            waiting, n_windows = [], 0
    yield from _predicted(waiting, network, batch_size)


def _predicted(block: Sequence[_Features], network: Network, batch_size: int) -> Iterator[Prediction]:
    stacks = [features.log_mels for features in block if features.log_mels is not None]
    windows = np.concatenate(stacks) if stacks else np.zeros((0, 0, 0), dtype=np.float32)
    parts = [network(windows[at : at + batch_size]) for at in range(0, len(windows), batch_size)]
    probabilities = np.concatenate(parts) if parts else windows
    at = 0
    for features in block:
        if features.log_mels is None:
            yield Prediction(features.recording.file, error=features.error)
            continue
        mean = probabilities[at : at + len(features.log_mels)].mean(axis=0, dtype=np.float64)
        at += len(features.log_mels)
        yield Prediction(
            features.recording.file,
            features.recording.start_secs,
            features.end_secs,
            tuple(float(probability) for probability in mean),
            features.duration_secs,
            features.warnings,
        )


def _features_in_order(recordings: Sequence[Recording], front_end: FrontEnd, engine: Engine) -> Iterator[_Features]:
    # In rounds, because what comes after a slow recording waits for it in memory.
    for first in range(0, len(recordings), _RECORDINGS_PER_ROUND):
        yield from _round_in_order(recordings[first : first + _RECORDINGS_PER_ROUND], front_end, engine)


def _round_in_order(recordings: Sequence[Recording], front_end: FrontEnd, engine: Engine) -> Iterator[_Features]:
    size = _RECORDINGS_PER_TASK
    tasks = [(at, tuple(recordings[at : at + size])) for at in range(0, len(recordings), size)]
    ready: dict[int, list[_Features]] = {}
    expected = 0
    for outcome in engine.map(partial(_compute, front_end=front_end), tasks):
        at, part = outcome.task
        if outcome.result is None:
            ready[at] = list(_one_by_one(part, front_end, engine))
        else:
            ready[at] = outcome.result
        while expected in ready:
            done = ready.pop(expected)
            expected += len(done)
            yield from done


def _one_by_one(part: Iterable[Recording], front_end: FrontEnd, engine: Engine) -> Iterator[_Features]:
    """The features of recordings one of which ended its worker."""
    for recording in part:
        for outcome in engine.map(partial(_compute, front_end=front_end), [(0, (recording,))]):
            if outcome.result is None:
                yield _Features(recording, None, error=outcome.death or "")
            else:
                yield from outcome.result


def _compute(task: tuple[int, tuple[Recording, ...]], front_end: FrontEnd) -> list[_Features]:
    return [_features(recording, front_end) for recording in task[1]]


def _features(recording: Recording, front_end: FrontEnd) -> _Features:
    windows = LogMelWindows(recording, front_end)
    log_mels = []
    end_secs = 0.0
    try:
        expect_progress()
        for window in windows:
            log_mels.append(window.log_mel)
            end_secs = window.end_secs
            expect_progress()
    except AudioError as error:
        return _Features(recording, None, error=error.reason)
    finally:
        expect_progress(0)
    return _Features(recording, np.stack(log_mels), end_secs, windows.duration_secs, tuple(windows.warnings))
