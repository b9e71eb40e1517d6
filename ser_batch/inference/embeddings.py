"""The inference task: embed a block of recordings and write one part, with one embedding for each window.

Every worker decodes, computes log-mels and runs the encoder, because it is small compared to the audio. Each window is
embedded alone, so that embeddings do not depend on batch size or order. Predictions are made from the stored
embeddings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording
from ser_batch.errors import AudioError, OutputError
from ser_batch.inference.encoder import Encoder, cached_encoder
from ser_batch.models.bundles import Bundle
from ser_batch.storage.writing import open_atomically

_ROWS_AT_ONCE = 256

Float64s = NDArray[np.float64]

# One row per recording: size and mtime_ns are null if there is no file; the last two are the bytes of the arrays, as
# lists of numbers take several times the memory while they are written and read.
_PART = pa.schema(
    {
        "key": pa.binary(16),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "duration": pa.float64(),
        "warnings": pa.string(),
        "error": pa.string(),
        "times": pa.binary(),
        "embeddings": pa.binary(),
    }
)


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
class Embedded:
    """Result of one recording.

    Attributes:
        times: start and end of each window in seconds, float64 ``(windows, 2)``.
        embeddings: of each window, float32 ``(windows, features)``.
        duration_secs: of the recording.
        warnings: warning codes.
        error: the reason for missing windows, or empty.
        stamp: of the file, taken before reading.
    """

    times: Float64s = field(default_factory=lambda: np.empty((0, 2)))
    embeddings: Float32s = field(default_factory=lambda: np.empty((0, 0), np.float32))
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    stamp: Stamp | None = None

    @property
    def mean(self) -> Float32s:
        """The mean embedding of its windows, float32 ``(features,)``."""
        mean: Float32s = self.embeddings.mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean


@dataclass(frozen=True)
class EmbeddingOptions:
    """Encoder and front end of an inference.

    Attributes:
        encoder: returns the encoder; called in each worker for every task. It must be picklable.
        front_end: of the encoder.
    """

    encoder: Callable[[], Encoder]
    front_end: FrontEnd

    @classmethod
    def of(cls, bundle: Bundle) -> EmbeddingOptions:
        """The encoder and front end of a bundle."""
        return cls(partial(cached_encoder, bundle.path, bundle.fingerprint), bundle.front_end)


@dataclass(frozen=True, slots=True)
class Block:
    """Task of `write_block`: some recordings, and the path of their part.

    Attributes:
        recordings: in order.
        keys: of each, 16 bytes: see `ser_batch.inference.results.keys_of`.
        path: of the part.
    """

    recordings: tuple[Recording, ...]
    keys: tuple[bytes, ...]
    path: str


class BlockSummary(NamedTuple):
    """Seconds of audio in a block, and seconds of computation."""

    audio_secs: float
    secs: float


_T = TypeVar("_T")


def in_blocks(values: Iterable[_T]) -> Iterator[list[_T]]:
    """Values in lists of a size at which work on arrays is efficient and small in memory."""
    left = iter(values)
    while block := list(islice(left, _ROWS_AT_ONCE)):
        yield block


def write_block(block: Block, options: EmbeddingOptions) -> BlockSummary:
    """Embed a block and write its part.

    Raises:
        BundleError: the bundle is damaged, or was replaced.
        OSError: the part cannot be written.
    """
    began = time.perf_counter()
    encoder = options.encoder()
    results = [_embedded(one, options.front_end, encoder) for one in block.recordings]
    write_part(Path(block.path), block.keys, results)
    audio_secs = sum(result.duration_secs for result in results if not result.error)
    return BlockSummary(audio_secs, time.perf_counter() - began)


def _embedded(recording: Recording, front_end: FrontEnd, encoder: Encoder) -> Embedded:
    stamp = stamp_of(recording.path)
    windows = LogMelWindows(recording, front_end)
    times, embeddings = [], []
    try:
        for one in windows:
            times.append((one.start_secs, one.end_secs))
            embeddings.append(encoder(one.log_mel))
    except AudioError as refusal:
        warnings = tuple(windows.warnings)
        return Embedded(duration_secs=windows.duration_secs, warnings=warnings, error=refusal.reason, stamp=stamp)
    return Embedded(np.array(times), np.stack(embeddings), windows.duration_secs, tuple(windows.warnings), "", stamp)


def write_part(path: Path, keys: Sequence[bytes], results: Sequence[Embedded]) -> None:
    """Write the results of some recordings atomically."""
    columns = [
        keys,
        [result.stamp and result.stamp.size for result in results],
        [result.stamp and result.stamp.mtime_ns for result in results],
        [result.duration_secs for result in results],
        [" ".join(result.warnings) for result in results],
        [result.error for result in results],
        [result.times.astype(np.float64).tobytes() for result in results],
        [result.embeddings.astype(np.float32).tobytes() for result in results],
    ]
    table = pa.table([pa.array(*pair) for pair in zip(columns, _PART.types, strict=True)], _PART)
    with open_atomically(path, "wb") as file:
        pq.write_table(table, file, compression="none", use_dictionary=False)


def read_part(path: Path) -> list[Embedded]:
    """Read the results of a part, in its order.

    Raises:
        OutputError: the file is damaged.
    """
    found = []
    for row in read_columns(path).to_pylist():
        stamp = None if row["size"] is None else Stamp(row["size"], row["mtime_ns"])
        times = np.frombuffer(row["times"], np.float64).reshape(-1, 2)
        embeddings = np.frombuffer(row["embeddings"], np.float32).reshape(len(times), -1 if len(times) else 0)
        found.append(Embedded(times, embeddings, row["duration"], tuple(row["warnings"].split()), row["error"], stamp))
    return found


def read_columns(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read columns of a Parquet file from an earlier run; None: all columns.

    Raises:
        OutputError: the file is damaged.
    """
    try:
        return pq.read_table(path, columns=columns, memory_map=True, pre_buffer=False)
    except (pa.ArrowException, ValueError) as error:
        detail = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is damaged ({detail}); give --restart to make the table again") from error
