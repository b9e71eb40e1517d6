"""From recordings and a bundle to predictions, one per recording or one per window.

Every worker decodes, transforms and predicts: a network is small beside the audio, and what crosses between
processes is a few numbers. A window is predicted alone, so that predictions do not depend on batch size or order.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Part, Recording
from ser_batch.errors import AudioError, RecordsError
from ser_batch.inference.predictor import Float64s, Network, Predictor, _listener, _predictor
from ser_batch.models.bundles import Bundle
from ser_batch.models.normalisation import scales_of_speakers
from ser_batch.records.folder import RecordFolder, is_last_window
from ser_batch.records.reader import Selection, manifest_rows, read_examples
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.process import expect_progress

# Tasks grow from one recording to so many: a dozen files keep all workers busy, and a million cost few messages.
_MOST_PER_TASK = 16
# What ended its worker is tried again, alone, after so many tasks.
_TASKS_PER_ROUND = 1024


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
        error: empty, or why there is no prediction; then all other fields but ``file`` and ``part`` are void.
        part: start and end in seconds as asked for, of a row with an error.
        channel: its number, where every channel has rows of its own.
    """

    file: str
    start_secs: float = 0.0
    end_secs: float = 0.0
    probabilities: tuple[float, ...] = ()
    duration_secs: float = 0.0
    novelty: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    part: Part = (None, None)
    channel: int | None = None

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

    def predictions(self, file: str, part: Part = (None, None), channel: int | None = None) -> Iterator[Prediction]:
        """The rows of a table.

        Args:
            file: the recording's key.
            part: its start and end in seconds, as asked for.
            channel: its number, where every channel has rows of its own.
        """
        if self.error:
            yield Prediction(file, error=self.error, part=part, channel=channel)
        for start_secs, end_secs, *probabilities, novelty in self.rows.tolist():
            shares = tuple(probabilities)
            figures = (shares, self.duration_secs, novelty, self.warnings)
            yield Prediction(file, start_secs, end_secs, *figures, channel=channel)


# A recording and its number.
Numbered = tuple[int, Recording]


@dataclass(frozen=True)
class PredictionOptions:
    """What is asked of every recording.

    Attributes:
        network: gives the network, in each worker, for every task; importable by name, or a partial of such.
        front_end: what it expects.
        windows: one row per window; else one per recording, with the mean of its windows' figures.
    """

    network: Callable[[], Network]
    front_end: FrontEnd
    windows: bool = False

    @classmethod
    def predictions(cls, bundle: Bundle, windows: bool = False) -> PredictionOptions:
        """What the bundle says of it."""
        return cls(partial(_predictor, bundle.path, bundle.fingerprint), bundle.front_end, windows)

    @classmethod
    def functionals(cls, bundle: Bundle) -> PredictionOptions:
        """What is known of its speaker by it."""
        return cls(partial(_listener, bundle.path, bundle.fingerprint), bundle.front_end)


def predict(
    recordings: Iterable[Numbered],
    asked: PredictionOptions,
    engine: Engine,
    speaker_scales: Mapping[str, Float32s] = {},
) -> Iterator[list[Result]]:
    """Results in the order in which they are done, a few at a time; one for each recording, whatever happens to it.

    A recording that ends its worker, and what shared a task with it, come later and alone.

    Args:
        recordings: read as workers become free.
        asked: of each.
        engine: where they are decoded, transformed and predicted.
        speaker_scales: for bundles that normalise by speaker: of those who are known.
    """
    tasks = _tasks(recordings, engine.workers, speaker_scales)
    compute = partial(_results, asked=asked)
    while part := list(itertools.islice(tasks, _TASKS_PER_ROUND)):
        ended_together: list[Numbered] = []
        for outcome in engine.map(compute, part):
            if outcome.result is None:
                ended_together += outcome.task.recordings
            else:
                yield outcome.result
        for alone in engine.map(compute, [_task([one], speaker_scales) for one in ended_together]):
            ((number, recording),) = alone.task.recordings
            yield alone.result or [
                Result(number, np.empty((0, 0)), error=alone.death or "", stamp=stamp_of(recording.path))
            ]


def predict_in_order(
    recordings: Sequence[Recording],
    asked: PredictionOptions,
    engine: Engine,
    speaker_scales: Mapping[str, Float32s] = {},
) -> Iterator[Result]:
    """As `predict`, one result after another in the recordings' order, with numbers from 0."""
    ready: dict[int, Result] = {}
    expected = 0
    for results in predict(enumerate(recordings), asked, engine, speaker_scales):
        ready.update((result.number, result) for result in results)
        while expected in ready:
            yield ready.pop(expected)
            expected += 1


@dataclass(frozen=True, slots=True)
class _Task:
    """Some recordings for one worker.

    Attributes:
        recordings: with their numbers.
        speaker_scales: of their speakers, as far as they are known.
    """

    recordings: tuple[Numbered, ...]
    speaker_scales: Mapping[str, Float32s] = field(default_factory=dict)


def _tasks(recordings: Iterable[Numbered], workers: int, speaker_scales: Mapping[str, Float32s]) -> Iterator[_Task]:
    left = iter(recordings)
    for number in itertools.count():
        numbered = list(itertools.islice(left, min(1 + number // workers, _MOST_PER_TASK)))
        if not numbered:
            return
        yield _task(numbered, speaker_scales)


def _task(numbered: Sequence[Numbered], speaker_scales: Mapping[str, Float32s]) -> _Task:
    names = {recording.speaker or "" for _, recording in numbered} & speaker_scales.keys()
    return _Task(tuple(numbered), {name: speaker_scales[name] for name in names})


def _results(task: _Task, asked: PredictionOptions) -> list[Result]:
    network = asked.network()
    return [_result(one, asked, network, task.speaker_scales) for one in task.recordings]


def _result(
    one: Numbered, asked: PredictionOptions, network: Network, speaker_scales: Mapping[str, Float32s]
) -> Result:
    number, recording = one
    stamp = stamp_of(recording.path)
    scale = speaker_scales.get(recording.speaker or "")
    windows = LogMelWindows(recording, asked.front_end)
    rows = []
    try:
        expect_progress()
        for window in windows:
            rows.append(np.append([window.start_secs, window.end_secs], network(window.log_mel, scale)))
            expect_progress()
    except AudioError as refusal:
        return Result(number, np.empty((0, 0)), windows.duration_secs, tuple(windows.warnings), refusal.reason, stamp)
    finally:
        expect_progress(0)
    figures = np.array(rows)
    if not asked.windows:
        figures = np.array([[figures[0, 0], figures[-1, 1], *figures[:, 2:].mean(axis=0)]])
    return Result(number, figures, windows.duration_secs, tuple(windows.warnings), "", stamp)


@dataclass(frozen=True)
class Evaluated:
    """A recording of the split, with truth and prediction.

    Attributes:
        speaker: empty where unknown.
        label: index of the true label.
        prediction: with the mean of its windows' probabilities.
    """

    speaker: str
    label: int
    prediction: Prediction


def predict_examples(
    bundle: Bundle, predictor: Predictor, records: RecordFolder, selection: Selection
) -> Iterator[Evaluated]:
    """The predictions on a selection's recordings, in shard order; windows of one recording are averaged.

    A bundle that normalises by speaker uses all of a speaker's examples in the selection.
    """
    scales = _speaker_scales(predictor, bundle, records, selection)
    rows = manifest_rows(records, selection)
    to_model = [bundle.labels.index(label) for label in records.labels]
    group: list[Float64s] = []
    began: dict[str, str] = {}
    for example in read_examples(records, selection):
        row = next(rows, None)
        if row is None:
            raise RecordsError(f"{records.path}: its manifest has fewer rows than its shards examples; run verify")
        began = began if group else row
        group.append(predictor(example.log_mel, scales.get(row["speaker"])))
        if is_last_window(began, row):
            yield Evaluated(row["speaker"], to_model[example.label], _averaged(group, began, float(row["end"])))
            group = []


def _speaker_scales(
    predictor: Predictor, bundle: Bundle, records: RecordFolder, selection: Selection
) -> dict[str, Float32s]:
    reference = bundle.content.speaker_reference
    if reference is None:
        return {}
    rows = manifest_rows(records, selection)
    examples = read_examples(records, selection)
    return scales_of_speakers(
        (
            (row["speaker"], predictor.functionals(example.log_mel))
            for row, example in zip(rows, examples, strict=False)  # `predict_examples` says what is missing
        ),
        reference,
    )


def _averaged(group: list[Float64s], began: dict[str, str], end_secs: float) -> Prediction:
    *probabilities, novelty = np.mean(group, axis=0).tolist()
    duration_secs = float(began["duration"])
    return Prediction(began["file"], float(began["start"]), end_secs, tuple(probabilities), duration_secs, novelty)
