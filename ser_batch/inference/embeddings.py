"""The inference task: embed a block of recordings and write one part, with one embedding for each window.

Every worker decodes, computes log-mels and runs the encoder, because it is small compared to the audio. Each window is
embedded alone, so that embeddings do not depend on batch size or order. Predictions are made from the stored
embeddings.

A part is two files: ``NUMBER.f32`` has the embeddings of all windows as raw float32, written one by one, so that a
recording of many hours takes no more memory than a short one; ``NUMBER.parquet`` has a row for each recording, and is
written last.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, Protocol, TypeVar

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
from ser_batch.storage.filesystems import file_status
from ser_batch.storage.writing import open_atomically

# Recordings, and windows, that are read or predicted at once: a compromise of time and memory.
_RECORDINGS_AT_ONCE = 256
WINDOWS_AT_ONCE = 64

Float64s = NDArray[np.float64]

# One row per recording: size and mtime_ns are null if there is no file; times is the bytes of the array.
_PART = pa.schema(
    {
        "key": pa.binary(16),
        "size": pa.int64(),
        "mtime_ns": pa.int64(),
        "duration": pa.float64(),
        "warnings": pa.string(),
        "error": pa.string(),
        "times": pa.binary(),
    }
)


# Metadata of the table: size of the file of embeddings.
_N_BYTES = b"embedding bytes"


class Stamp(NamedTuple):
    """Size in bytes and modification time of a file; another stamp means another content."""

    size: int
    mtime_ns: int


def stamp_of(path: str) -> Stamp | None:
    """The stamp of a file; None if there is no such file."""
    try:
        status = file_status(path)
    except (OSError, ValueError):  # ValueError: a zero byte in the name
        return None
    return Stamp(status.size, status.mtime_ns)


class Embeddings(Protocol):
    """Embeddings of windows, in memory or on disk."""

    def __len__(self) -> int:
        """The number of windows."""

    def __getitem__(self, windows: slice) -> Float32s:
        """The embeddings of adjacent windows, float32 ``(windows, features)``."""


@dataclass(frozen=True, slots=True)
class StoredEmbeddings:
    """Embeddings in the file of a part; each access reads them again.

    Attributes:
        path: of the file.
        first: number of windows before these.
        n_windows: number of windows.
        n_features: of each.
    """

    path: Path
    first: int
    n_windows: int
    n_features: int

    def __len__(self) -> int:
        """The number of windows."""
        return self.n_windows

    def __getitem__(self, windows: slice) -> Float32s:
        """The embeddings of adjacent windows, float32 ``(windows, features)``."""
        first, last, _ = windows.indices(self.n_windows)
        if last <= first:
            return np.empty((0, self.n_features), np.float32)
        offset = 4 * (self.first + first) * self.n_features
        values = np.fromfile(self.path, np.float32, (last - first) * self.n_features, offset=offset)
        return values.reshape(last - first, self.n_features)


@dataclass(frozen=True, slots=True)
class Embedded:
    """Result of one recording.

    Attributes:
        times: start and end of each window in seconds, float64 ``(windows, 2)``.
        embeddings: of each window.
        duration_secs: of the recording.
        warnings: warning codes.
        error: the reason for missing windows, or empty.
        stamp: of the file, taken before reading.
    """

    times: Float64s = field(default_factory=lambda: np.empty((0, 2)))
    embeddings: Embeddings = field(default_factory=lambda: np.empty((0, 0), np.float32))
    duration_secs: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    stamp: Stamp | None = None

    def blocks(self) -> Iterator[Float32s]:
        """The embeddings of all windows in order, in blocks that take little memory."""
        for first in range(0, len(self.embeddings), WINDOWS_AT_ONCE):
            yield self.embeddings[first : first + WINDOWS_AT_ONCE]

    @property
    def mean(self) -> Float32s:
        """The mean embedding of its windows, float32 ``(features,)``."""
        total = sum(block.sum(axis=0, dtype=np.float64) for block in self.blocks())
        mean: Float32s = (total / len(self.embeddings)).astype(np.float32)
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


def in_blocks(values: Iterable[_T], size: int = _RECORDINGS_AT_ONCE) -> Iterator[list[_T]]:
    """Values in lists of a size; the last may be shorter."""
    left = iter(values)
    while block := list(islice(left, size)):
        yield block


def write_block(block: Block, options: EmbeddingOptions) -> BlockSummary:
    """Embed a block and write its part.

    Raises:
        BundleError: the bundle is damaged, or was replaced.
        OSError: the part cannot be written.
    """
    began = time.perf_counter()
    encoder = options.encoder()
    with open_atomically(embeddings_path(Path(block.path)), "wb") as file:
        results = [_embedded(one, options.front_end, encoder, file) for one in block.recordings]
        n_bytes = file.tell()
    write_part(Path(block.path), block.keys, results, n_bytes)
    audio_secs = sum(result.duration_secs for result in results if not result.error)
    return BlockSummary(audio_secs, time.perf_counter() - began)


def _embedded(recording: Recording, front_end: FrontEnd, encoder: Encoder, file: IO[bytes]) -> Embedded:
    """The result of a recording, except its embeddings, which are appended to the file."""
    stamp, first = stamp_of(recording.path), file.tell()
    windows = LogMelWindows(recording, front_end)
    times, error = [], ""
    try:
        for one in windows:
            times.append((one.start_secs, one.end_secs))
            file.write(encoder(one.log_mel).astype(np.float32).tobytes())
    except AudioError as refusal:
        times, error = [], refusal.reason
        file.seek(first)
        file.truncate()
    spans = np.array(times, np.float64).reshape(-1, 2)
    return Embedded(
        spans, duration_secs=windows.duration_secs, warnings=tuple(windows.warnings), error=error, stamp=stamp
    )


def embeddings_path(part: Path) -> Path:
    """The file with the embeddings of a part."""
    return part.with_suffix(".f32")


def write_part(path: Path, keys: Sequence[bytes], results: Sequence[Embedded], n_bytes: int = 0) -> None:
    """Write the rows of a part atomically; the file of its embeddings, of ``n_bytes``, is not written here."""
    columns = [
        keys,
        [result.stamp and result.stamp.size for result in results],
        [result.stamp and result.stamp.mtime_ns for result in results],
        [result.duration_secs for result in results],
        [" ".join(result.warnings) for result in results],
        [result.error for result in results],
        [result.times.tobytes() for result in results],
    ]
    table = pa.table([pa.array(*pair) for pair in zip(columns, _PART.types, strict=True)], _PART)
    table = table.replace_schema_metadata({_N_BYTES: str(n_bytes)})
    with open_atomically(path, "wb") as file:
        pq.write_table(table, file, compression="none", use_dictionary=False)


def read_part(path: Path) -> list[Embedded]:
    """Read the results of a part, in its order.

    Raises:
        OutputError: the file is damaged.
    """
    table = read_columns(path)
    rows = table.to_pylist()
    spans = [np.frombuffer(row["times"], np.float64).reshape(-1, 2) for row in rows]
    ends = np.cumsum([len(times) for times in spans]).tolist()
    stored, n_bytes = embeddings_path(path), int(table.schema.metadata[_N_BYTES])
    size = stored.stat().st_size if stored.exists() else 0
    if size != n_bytes:
        raise OutputError(f"{stored}: has {size} bytes, not {n_bytes}; give --restart to make the table again")
    n_features = n_bytes // (4 * max(ends[-1], 1))
    found = []
    for row, times, end in zip(rows, spans, ends, strict=True):
        stamp = None if row["size"] is None else Stamp(row["size"], row["mtime_ns"])
        embeddings = StoredEmbeddings(stored, end - len(times), len(times), n_features)
        found.append(Embedded(times, embeddings, row["duration"], tuple(row["warnings"].split()), row["error"], stamp))
    return found


def remove_part(path: Path) -> None:
    """Remove both files of a part."""
    path.unlink()
    embeddings_path(path).unlink(missing_ok=True)


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
