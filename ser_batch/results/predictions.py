"""From recordings and a bundle to predictions, one per recording or one per window.

The unit of work is a block: a few recordings that are predicted together. What a network says of a window
may differ in the last digits with its place in a batch (measured: 2e-7), so batches are made of one block's
windows in their order: the same block gives the same numbers, whatever the workers do.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.logmels import stack
from ser_batch.audio.recordings import Recording
from ser_batch.audio.waveforms import Float32s
from ser_batch.audio.windows import LogMelWindows
from ser_batch.errors import AudioError
from ser_batch.models.bundles import Bundle
from ser_batch.models.calibration import apply_temperature
from ser_batch.models.networks import features_of, functionals_of
from ser_batch.models.scales import scales_of
from ser_batch.tasks import Engine, Outcome, expect_progress

Float64s = NDArray[np.float64]

# A task is small, so that a folder of a dozen files keeps all workers busy; a block gathers several.
_RECORDINGS_PER_TASK = 8
# So many windows of a long recording are sent on before the next are made.
_WINDOWS_PER_PART = 128
# What ended its worker is tried again, alone, after so many blocks.
_BLOCKS_PER_ROUND = 256


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model says of one recording or window, or why it says nothing: a row.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        probabilities: one per label, in the bundle's order, summing to 1.
        duration_secs: of the recording.
        novelty: how far it lies from what the model was trained on, 0 to 1.
        warnings: codes of what a user should know.
        error: empty, or why there is no prediction; then all other fields but ``file`` are void.
    """

    file: str
    start_secs: float = 0.0
    end_secs: float = 0.0
    probabilities: tuple[float, ...] = ()
    duration_secs: float = 0.0
    novelty: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""

    @property
    def best(self) -> int:
        """The index of the most probable label."""
        return max(range(len(self.probabilities)), key=lambda index: self.probabilities[index])


class Stamp(NamedTuple):
    """What tells that a file is not the one that was read: its size in bytes and when it was written."""

    size: int
    mtime_ns: int


def stamp_of(path: str) -> Stamp | None:
    """A file's stamp; None where there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one recording.

    Attributes:
        number: which one it is, as the caller counts.
        rows: float64 ``(rows, 3 + labels)``: start and end in seconds, the probabilities, the novelty. One
            row for the recording, or one per window.
        duration_secs: of the recording.
        warnings: codes of what a user should know.
        error: empty, or why there are no rows.
        stamp: of the file, before it was read.
    """

    number: int
    rows: Float64s
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    stamp: Stamp | None = None

    def predictions(self, file: str) -> Iterator[Prediction]:
        """The rows of a table."""
        if self.error:
            yield Prediction(file, error=self.error)
        for start_secs, end_secs, *probabilities, novelty in self.rows.tolist():
            shares = tuple(probabilities)
            yield Prediction(file, start_secs, end_secs, shares, self.duration_secs, novelty, self.warnings)


@dataclass(frozen=True)
class PredictionOptions:
    """How recordings are predicted.

    Attributes:
        batch_size: windows the network sees at once.
        windows: one row per window; else one per recording, with the mean of its windows' probabilities.
    """

    batch_size: int = 32
    windows: bool = False


# A recording and its number.
Numbered = tuple[int, Recording]

# From log-mels ``(batch, n_mels, n_frames)`` and their speakers to what a `Result` has in its rows after the times.
Network = Callable[[Float32s, Sequence[str]], Float64s]


class Predictor:
    """A bundle's network at work.

    Args:
        bundle: whose network.

    Raises:
        BundleError: the bundle is damaged.
    """

    def __init__(self, bundle: Bundle) -> None:
        import keras
        import tensorflow as tf

        network = bundle.load_network()
        self._novelty = bundle.load_novelty()
        self._reference = bundle.content.speaker_reference
        self._temperature = bundle.content.temperature
        self._scales: Mapping[str, Float32s] = {}
        whole = keras.Model(network.inputs, [network.output, features_of(network).output])
        self._graph = tf.function(lambda *inputs: whole(list(inputs), training=False), reduce_retracing=True)
        if self._reference is not None:
            functionals = functionals_of(network)
            self._functionals = tf.function(lambda log_mels: functionals(log_mels), reduce_retracing=True)

    def at(self, temperature: float) -> Predictor:
        """The same, calibrated with another temperature than the bundle's; 1 leaves what the network says."""
        other = copy.copy(self)
        other._temperature = temperature
        return other

    def know(self, scales: Mapping[str, Float32s]) -> None:
        """From now on, bring these speakers to the bundle's reference; others stay as they are."""
        self._scales = scales

    def functionals(self, log_mels: Float32s, speakers: Sequence[str] = ()) -> Float64s:
        """What a speaker is known by: float64 ``(batch, features)``."""
        features: Float64s = self._functionals(log_mels).numpy().astype(np.float64)
        return features

    def __call__(self, log_mels: Float32s, speakers: Sequence[str] = ()) -> Float64s:
        """Probabilities of the labels, then the novelty: float64 ``(batch, labels + 1)``.

        Args:
            log_mels: float32 ``(batch, n_mels, n_frames)``; shorter ones padded as `logmels.stack` does.
            speakers: of each; an empty name, or none at all, is nobody's.
        """
        import tensorflow as tf

        inputs = [tf.constant(log_mels)]
        if self._reference is not None:
            names = speakers or [""] * len(log_mels)
            inputs.append(tf.constant(scales_of(names, self._scales, self._reference)))
        probabilities, features = self._graph(*inputs)
        calibrated = apply_temperature(probabilities.numpy(), self._temperature)
        return np.hstack([calibrated, self._novelty.of(features.numpy())[:, None]])


def predict_recordings(
    recordings: Sequence[Recording],
    front_end: FrontEnd,
    network: Network,
    engine: Engine,
    options: PredictionOptions = PredictionOptions(),
) -> Iterator[Prediction]:
    """The predictions of recordings, in order, whatever happens to a file or a worker.

    Args:
        recordings: what to predict.
        front_end: the bundle's.
        network: a `Predictor`, or a method of one.
        engine: where audio is decoded and transformed.
        options: how.
    """
    for result in results_in_order(recordings, front_end, network, engine, options):
        yield from result.predictions(recordings[result.number].file)


def results_in_order(
    recordings: Sequence[Recording], front_end: FrontEnd, network: Network, engine: Engine, options: PredictionOptions
) -> Iterator[Result]:
    """As `predict_recordings`, with one result per recording."""
    blocks = in_blocks(enumerate(recordings), options.batch_size)
    ready: dict[int, Result] = {}
    expected = 0
    for results in predict_blocks(blocks, front_end, network, engine, options):
        ready.update((result.number, result) for result in results)
        while expected in ready:
            yield ready.pop(expected)
            expected += 1


def in_blocks(recordings: Iterable[Numbered], size: int) -> Iterator[list[Numbered]]:
    """Recordings in blocks of one size; the last may be smaller."""
    left = iter(recordings)
    while block := list(itertools.islice(left, size)):
        yield block


def predict_blocks(
    blocks: Iterable[Sequence[Numbered]],
    front_end: FrontEnd,
    network: Network,
    engine: Engine,
    options: PredictionOptions,
) -> Iterator[list[Result]]:
    """Predict blocks of recordings, in the order in which they are done.

    A recording that ends its worker, and what shared a task with it, come later and alone.

    Args:
        blocks: read as workers become free.
        front_end: the bundle's.
        network: a `Predictor`, or a method of one.
        engine: where audio is decoded and transformed.
        options: how.

    Yields:
        One result for each of a block's recordings, in its order.
    """
    left = iter(blocks)
    while part := list(itertools.islice(left, _BLOCKS_PER_ROUND)):
        gathering = _Gathering(front_end, network, engine, options)
        yield from gathering.results(part)
        alone = [[one] for one in gathering.suspects]
        yield from _Gathering(front_end, network, engine, options).results(alone)


@dataclass(frozen=True, slots=True)
class _Task:
    """Some recordings of a block.

    Attributes:
        block: the number of the block.
        recordings: with their numbers.
    """

    block: int
    recordings: tuple[Numbered, ...]


@dataclass(slots=True)
class _Part:
    """Some windows of a task's recordings.

    Attributes:
        log_mels: of the windows.
        numbers: of the recording that each window belongs to.
        speakers: who speaks in each window; empty where unknown.
        spans: each window's start and end in seconds.
        ended: the recordings that ended in this part; their rows are to come.
    """

    log_mels: list[Float32s] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    speakers: list[str] = field(default_factory=list)
    spans: list[tuple[float, float]] = field(default_factory=list)
    ended: list[Result] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        return len(self.log_mels) == _WINDOWS_PER_PART


def _parts(task: _Task, front_end: FrontEnd) -> Iterator[_Part]:
    """The windows of a task's recordings; in bounded parts, because a recording may last for hours."""
    part = _Part()
    for number, recording in task.recordings:
        stamp = stamp_of(recording.path)
        windows = LogMelWindows(recording, front_end)
        error = ""
        try:
            expect_progress()
            for window in windows:
                part.log_mels.append(window.log_mel)
                part.numbers.append(number)
                part.speakers.append(recording.speaker or "")
                part.spans.append((window.start_secs, window.end_secs))
                if part.is_full:
                    expect_progress(0)  # whoever reads it may take their time
                    yield part
                    part = _Part()
                expect_progress()
        except AudioError as refusal:
            error = refusal.reason
        finally:
            expect_progress(0)
        part.ended.append(
            Result(number, np.empty((0, 0)), windows.duration_secs, tuple(windows.warnings), error, stamp)
        )
    yield part


@dataclass
class _Block:
    """A block whose windows are on their way.

    Attributes:
        missing: how many of its tasks have not ended.
        rows: of each recording, as far as they were predicted.
        rest: the last part of each task, by its first recording's number.
        ended: the results, without rows.
    """

    missing: int = 0
    rows: dict[int, list[Float64s]] = field(default_factory=dict)
    rest: dict[int, _Part] = field(default_factory=dict)
    ended: list[Result] = field(default_factory=list)


class _Gathering:
    """Puts what workers send together again, block by block."""

    def __init__(self, front_end: FrontEnd, network: Network, engine: Engine, options: PredictionOptions) -> None:
        self._front_end = front_end
        self._network = network
        self._engine = engine
        self._options = options
        self._blocks: dict[int, _Block] = {}
        self.suspects: list[Numbered] = []  # one of each task's ended a worker that had others, too

    def results(self, blocks: Sequence[Sequence[Numbered]]) -> Iterator[list[Result]]:
        tasks = self._tasks(blocks)
        compute = cast(Callable[[_Task], _Part], partial(_parts, front_end=self._front_end))  # part by part
        for outcome in self._engine.map(compute, tasks):
            block = self._blocks[outcome.task.block]
            if outcome.result is None:
                block.missing -= 1
                if outcome.death is not None:
                    self._bury(block, outcome)
            elif outcome.result.is_full:
                self._predict(block, [outcome.result])
            else:
                block.rest[outcome.task.recordings[0][0]] = outcome.result
            if not block.missing:
                del self._blocks[outcome.task.block]
                self._predict(block, [block.rest[first] for first in sorted(block.rest)])
                yield [self._whole(result, block) for result in sorted(block.ended, key=lambda result: result.number)]

    def _tasks(self, blocks: Sequence[Sequence[Numbered]]) -> Iterator[_Task]:
        for number, block in enumerate(blocks):
            parts = [tuple(block[at : at + _RECORDINGS_PER_TASK]) for at in range(0, len(block), _RECORDINGS_PER_TASK)]
            self._blocks[number] = _Block(missing=len(parts))
            for part in parts:
                yield _Task(number, part)

    def _bury(self, block: _Block, outcome: Outcome[_Task, _Part]) -> None:
        recordings = outcome.task.recordings
        dead = {number for number, _ in recordings}
        block.rest.pop(recordings[0][0], None)
        block.ended = [result for result in block.ended if result.number not in dead]
        if len(recordings) == 1:
            number, recording = recordings[0]
            block.ended.append(
                Result(number, np.empty((0, 0)), error=outcome.death or "", stamp=stamp_of(recording.path))
            )
        else:
            self.suspects += recordings

    def _predict(self, block: _Block, parts: Sequence[_Part]) -> None:
        """Add the rows of some windows, in batches of their own."""
        log_mels = [log_mel for part in parts for log_mel in part.log_mels]
        numbers = [number for part in parts for number in part.numbers]
        speakers = [speaker for part in parts for speaker in part.speakers]
        spans = [span for part in parts for span in part.spans]
        size = self._options.batch_size
        for at in range(0, len(log_mels), size):
            probabilities = self._network(stack(log_mels[at : at + size]), speakers[at : at + size])
            rows = np.hstack([np.array(spans[at : at + size]), probabilities])
            of = np.array(numbers[at : at + size])
            for number in dict.fromkeys(numbers[at : at + size]):
                block.rows.setdefault(number, []).append(rows[of == number])
        for part in parts:
            block.ended += part.ended

    def _whole(self, result: Result, block: _Block) -> Result:
        """A result with its rows: what was predicted before a refusal is void."""
        if result.error:
            return result
        rows = np.concatenate(block.rows[result.number])
        if not self._options.windows:
            rows = np.array([[rows[0, 0], rows[-1, 1], *rows[:, 2:].mean(axis=0)]])
        return Result(result.number, rows, result.duration_secs, result.warnings, "", result.stamp)
