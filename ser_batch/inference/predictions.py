"""The inference task: predict a block of recordings and write one part, with one row per recording or per window.

Every worker decodes, computes log-mels and runs the network, because the network is small compared to the audio. Each
window is predicted alone, so that predictions do not depend on batch size or order.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Part, Recording
from ser_batch.errors import AudioError, OutputError
from ser_batch.inference.predictor import Float64s, Network, cached_predictor, functionals_predictor
from ser_batch.models.bundles import Bundle
from ser_batch.storage.writing import open_atomically

# One row per recording: size and mtime_ns are null if there is no file; ``rows`` is flattened.
_PART = pa.schema(
    {
        "key": pa.binary(16),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "duration": pa.float64(),
        "warnings": pa.string(),
        "error": pa.string(),
        "n_rows": pa.int64(),
        "rows": pa.list_(pa.float64()),
    }
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of the prediction table: the prediction for a recording or window, or an error.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        probabilities: one per label, in the bundle's order, summing to 1.
        duration_secs: of the recording.
        novelty: distance to the training data, 0 to 1.
        warnings: warning codes.
        error: the reason for a missing prediction, or empty; if set, only ``file``, ``part`` and ``channel`` are valid.
        part: requested start and end in seconds, for a row with an error.
        channel: channel number, if every channel has its own rows.
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
    """Size in bytes and modification time of a file; another stamp means another content."""

    size: int
    mtime_ns: int


def stamp_of(path: str) -> Stamp | None:
    """The stamp of a file; None if there is no such file."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    return Stamp(status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Result:
    """Result of one recording.

    Attributes:
        rows: float64 ``(rows, 3 + labels)``: start and end in seconds, the probabilities, the novelty. One
            row for the recording, or one per window.
        duration_secs: of the recording.
        warnings: warning codes.
        error: the reason for missing rows, or empty.
        stamp: of the file, taken before reading.
    """

    rows: Float64s
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    stamp: Stamp | None = None

    def predictions(self, file: str, part: Part = (None, None), channel: int | None = None) -> Iterator[Prediction]:
        """The rows of a table.

        Args:
            file: the recording's key.
            part: requested start and end in seconds.
            channel: channel number, if every channel has its own rows.
        """
        if self.error:
            yield Prediction(file, error=self.error, part=part, channel=channel)
        for start_secs, end_secs, *probabilities, novelty in self.rows.tolist():
            shares = tuple(probabilities)
            figures = (shares, self.duration_secs, novelty, self.warnings)
            yield Prediction(file, start_secs, end_secs, *figures, channel=channel)


@dataclass(frozen=True)
class PredictionOptions:
    """Network, front end and kind of rows of an inference.

    Attributes:
        network: returns the network; called in each worker for every task. It must be picklable.
        front_end: of the network.
        windows: one row per window; else one per recording, with the mean over its windows.
    """

    network: Callable[[], Network]
    front_end: FrontEnd
    windows: bool = False

    @classmethod
    def predictions(cls, bundle: Bundle, windows: bool = False) -> PredictionOptions:
        """Options for predictions with a bundle."""
        return cls(partial(cached_predictor, bundle.path, bundle.fingerprint), bundle.front_end, windows)

    @classmethod
    def functionals(cls, bundle: Bundle) -> PredictionOptions:
        """Options for the functionals of each recording, from which speaker statistics are computed."""
        return cls(partial(functionals_predictor, bundle.path, bundle.fingerprint), bundle.front_end)


@dataclass(frozen=True, slots=True)
class Block:
    """Task of `write_block`: some recordings, and the path of their part.

    Attributes:
        recordings: in order.
        keys: of each, 16 bytes: see `ser_batch.inference.results.keys_of`.
        path: of the part.
        speaker_scales: scale of each of their speakers, where available.
    """

    recordings: tuple[Recording, ...]
    keys: tuple[bytes, ...]
    path: str
    speaker_scales: Mapping[str, Float32s] = field(default_factory=dict)


class BlockSummary(NamedTuple):
    """Seconds of predicted audio in a block, and seconds of computation."""

    audio_secs: float
    secs: float


def write_block(block: Block, options: PredictionOptions) -> BlockSummary:
    """Predict a block and write its part.

    Raises:
        BundleError: the bundle is damaged, or was replaced.
        OSError: the part cannot be written.
    """
    began = time.perf_counter()
    network = options.network()
    results = [_result(one, options, network, block.speaker_scales) for one in block.recordings]
    write_part(Path(block.path), block.keys, results)
    audio_secs = sum(result.duration_secs for result in results if not result.error)
    return BlockSummary(audio_secs, time.perf_counter() - began)


def _result(
    recording: Recording, options: PredictionOptions, network: Network, speaker_scales: Mapping[str, Float32s]
) -> Result:
    stamp = stamp_of(recording.path)
    scale = speaker_scales.get(recording.speaker or "")
    windows = LogMelWindows(recording, options.front_end)
    try:
        rows = [np.append([one.start_secs, one.end_secs], network(one.log_mel, scale)) for one in windows]
    except AudioError as refusal:
        return Result(np.empty((0, 0)), windows.duration_secs, tuple(windows.warnings), refusal.reason, stamp)
    figures = np.array(rows)
    if not options.windows:
        figures = np.array([[figures[0, 0], figures[-1, 1], *figures[:, 2:].mean(axis=0)]])
    return Result(figures, windows.duration_secs, tuple(windows.warnings), "", stamp)


def write_part(path: Path, keys: Sequence[bytes], results: Sequence[Result]) -> None:
    """Write the results of some recordings atomically."""
    columns = [
        keys,
        [result.stamp and result.stamp.size for result in results],
        [result.stamp and result.stamp.mtime_ns for result in results],
        [result.duration_secs for result in results],
        [" ".join(result.warnings) for result in results],
        [result.error for result in results],
        [len(result.rows) for result in results],
        [result.rows.ravel() for result in results],
    ]
    table = pa.table([pa.array(*pair) for pair in zip(columns, _PART.types, strict=True)], _PART)
    with open_atomically(path, "wb") as file:
        pq.write_table(table, file)


def read_part(path: Path) -> list[Result]:
    """Read the results of a part, in its order.

    Raises:
        OutputError: the file is damaged.
    """
    found = []
    for row in read_columns(path).to_pylist():
        stamp = None if row["size"] is None else Stamp(row["size"], row["mtime_ns"])
        rows = np.array(row["rows"]).reshape(row["n_rows"], -1 if row["n_rows"] else 0)
        found.append(Result(rows, row["duration"], tuple(row["warnings"].split()), row["error"], stamp))
    return found


def read_columns(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a Parquet file from an earlier run; None: all columns.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        return pq.read_table(path, columns=columns)
    except (pa.ArrowException, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is damaged ({detail}); give --restart to make the table again") from error
