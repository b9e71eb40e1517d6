"""Stored results of a prediction table, kept on disk during and after the run.

The folder ``.preds.csv.parts`` beside ``preds.csv`` contains ``identity.json`` (settings that affect the predictions),
``plan.parquet`` (the recordings in SOURCE order), ``results/`` (one part for each finished block of recordings), and
``table.json`` (checksum and counts of the table). A result is looked up by the key of its recording, and is valid while
the stamp of the audio file is the same. A run continues from the parts, an update keeps the results of unchanged files,
and the table is written from the parts.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ser_batch.corpus.table import Listing, Recording, paths, recordings, selected
from ser_batch.errors import OutputError
from ser_batch.formatting import pluralize
from ser_batch.inference.embeddings import (
    Block,
    BlockSummary,
    Embedded,
    EmbeddingOptions,
    read_columns,
    read_part,
    stamp_of,
    write_block,
    write_part,
)
from ser_batch.runtime.engine import Engine
from ser_batch.storage.filesystems import absolute_path
from ser_batch.storage.locks import locked
from ser_batch.storage.outputs import IDENTITY, LOCK, Identity, drop_partials, read_own_json
from ser_batch.storage.writing import open_atomically, os_errors_named, write_json

# Increased with every change of the format of these files.
_VERSION = 7

_PLAN = "plan.parquet"
_TABLE = "table.json"

_MOST_PER_BLOCK = 256
_BLOCK_SECS = 2.0
_KEY_BYTES = 16

OnProgress = Callable[[int, int], None]


def parts_folder(table: Path) -> Path:
    """The folder with the parts of a table."""
    return table.with_name(f".{table.name}.parts")


def keys_of(listing: Listing) -> pa.Array:
    """A unique key for each recording and each rejected input, binary(16) ``(n,)``.

    The probability of a collision among half a million keys is 1e-27.
    """
    keys = bytearray()
    for one in recordings(listing.recordings):
        parts = (one.file, absolute_path(one.path), *map(repr, (one.start_secs, one.end_secs, one.channel)))
        keys += _key(parts)
    for refused in listing.rejections:
        keys += _key((refused.file, refused.reason))
    buffers = [None, pa.py_buffer(bytes(keys))]
    return pa.Array.from_buffers(pa.binary(_KEY_BYTES), len(keys) // _KEY_BYTES, buffers)


def _key(parts: Sequence[str]) -> bytes:
    return hashlib.blake2b(os.fsencode("\0".join(parts)), digest_size=_KEY_BYTES).digest()


@dataclass(frozen=True)
class ListingChanges:
    """Differences between a listing and the plan of an earlier run.

    Attributes:
        added, removed: number of recordings only in the listing, and only in the plan.
        reordered: same recordings, but in another order.
        relocated: same names, but other paths.
        changed: number of predicted files that were modified since.
    """

    added: int = 0
    removed: int = 0
    reordered: bool = False
    relocated: bool = False
    changed: int = 0


class StoredResults:
    """The results in a folder of parts; only keys and stamps are in memory.

    Args:
        folder: created if absent.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        # Newest first: the newest result of a recording is the one that is found.
        self.paths = sorted(folder.glob("*.parquet"), reverse=True)
        tables = [read_columns(path, ["key", "size", "mtime_ns"]) for path in self.paths]
        self._begins = np.cumsum([0, *(table.num_rows for table in tables)])
        whole = pa.concat_tables(tables) if tables else None
        self._keys = whole["key"].combine_chunks() if whole else pa.array([], pa.binary(_KEY_BYTES))
        columns = (whole[name].fill_null(-1).to_numpy() for name in ("size", "mtime_ns")) if whole else ()
        self._stamps = np.column_stack([*columns] or [np.empty((0, 2), np.int64)])

    def places(self, keys: pa.Array) -> NDArray[np.int64]:
        """The index of the newest result of each key, int64 ``(n,)``; -1: no result."""
        if not len(self._keys):
            return np.full(len(keys), -1)
        found: NDArray[np.int64] = pc.index_in(keys, value_set=self._keys).fill_null(-1).to_numpy().astype(np.int64)
        return found

    def is_changed(self, places: NDArray[np.int64], table: pa.Table) -> NDArray[np.bool_]:
        """Whether the file of each stored result was modified since, bool ``(n,)``.

        Args:
            places: from `places`, for these recordings.
            table: the recordings, ``n`` rows.
        """
        if not len(self._keys):
            return np.zeros(len(places), np.bool_)
        stamps = np.array([stamp_of(path) or (-1, -1) for path in paths(table)], np.int64).reshape(-1, 2)
        found: NDArray[np.bool_] = (places >= 0) & (stamps != self._stamps[places]).any(axis=1)
        return found

    def at(self, places: Iterable[int]) -> Iterator[Embedded]:
        """The results at the indices from `places`; faster where results of one part are adjacent."""
        part = lru_cache(maxsize=4)(read_part)
        for place in places:
            number = int(np.searchsorted(self._begins, place, side="right")) - 1
            yield part(self.paths[number])[place - self._begins[number]]


class _Blocks:
    """Recordings in blocks of about `_BLOCK_SECS`. The first blocks are small, so that all workers start early."""

    def __init__(self, numbered: Iterable[tuple[bytes, Recording]], n_left: int, workers: int) -> None:
        self._numbered = iter(numbered)
        self._n_left = n_left
        self._workers = workers
        self._size = 1

    def __iter__(self) -> Iterator[list[tuple[bytes, Recording]]]:
        while some := list(islice(self._numbered, min(self._size, 1 + self._n_left // (4 * self._workers)))):
            self._n_left -= len(some)
            yield some

    def measured(self, n_recordings: int, secs: float) -> None:
        """Adjust the block size to the measured time of a finished block."""
        self._size = max(1, min(_MOST_PER_BLOCK, 2 * self._size, round(_BLOCK_SECS * n_recordings / max(secs, 1e-6))))


def embed_blocks(
    recordings: Iterable[tuple[bytes, Recording]],
    n_recordings: int,
    options: EmbeddingOptions,
    engine: Engine,
    folder: Path,
) -> Iterator[tuple[Block, BlockSummary]]:
    """Embed recordings into new parts of a folder, and yield each block when it is finished.

    The parts are numbered in the order of the recordings. If a block crashes its worker, its recordings are repeated at
    the end as blocks of one recording. A recording that crashes its worker again gets the crash as its error.

    Args:
        recordings: with their keys; consumed lazily.
        n_recordings: their number.
        options: encoder and front end.
        engine: runs the tasks: decoding, log-mels, embedding.
        folder: of the parts.
    """
    paths = (str(folder / f"{number:08d}.parquet") for number in count(_first_free(folder)))

    def block(some: Sequence[tuple[bytes, Recording]]) -> Block:
        keys, taken = zip(*some, strict=True)
        return Block(taken, keys, next(paths))

    compute = partial(write_block, options=options)
    sized = _Blocks(recordings, n_recordings, engine.workers)
    failed: list[Block] = []
    for outcome in engine.map(compute, map(block, sized)):
        if outcome.result is None:
            failed.append(outcome.task)
        else:
            sized.measured(len(outcome.task.keys), outcome.result.secs)
            yield outcome.task, outcome.result
    alone = (block([one]) for whole in failed for one in zip(whole.keys, whole.recordings, strict=True))
    for outcome in engine.map(compute, alone):
        if outcome.result is None:
            error = Embedded(error=outcome.failure or "", stamp=stamp_of(outcome.task.recordings[0].path))
            write_part(Path(outcome.task.path), outcome.task.keys, [error])
        yield outcome.task, outcome.result or BlockSummary(0.0, 0.0)


def _first_free(folder: Path) -> int:
    return 1 + max((int(path.stem) for path in folder.glob("*.parquet")), default=0)


@dataclass(frozen=True)
class CompleteResults:
    """The results of all recordings of a listing.

    Attributes:
        results: in the listing's order; each call reads them again from the parts.
        n_new: number of recordings embedded by this run.
        audio_secs: their duration.
    """

    results: Callable[[], Iterator[Embedded]]
    n_new: int
    audio_secs: float


def complete_results(
    listing: Listing,
    keys: pa.Array,
    options: EmbeddingOptions,
    engine: Engine,
    folder: Path,
    on_progress: OnProgress = lambda done, total: None,
) -> CompleteResults:
    """Embed the recordings that have no result yet or whose file changed.

    Args:
        listing: its recordings.
        keys: from `keys_of`.
        options: encoder and front end.
        engine: runs the tasks.
        folder: of the parts.
        on_progress: called with (recordings done, recordings in all).

    Raises:
        OutputError: the engine lost a task.
    """
    table, keys = listing.recordings, keys[: len(listing.recordings)]
    stored = StoredResults(folder)
    places = stored.places(keys)
    pending = np.flatnonzero((places < 0) | stored.is_changed(places, table))
    done, audio_secs = len(table) - len(pending), 0.0
    if len(pending):
        on_progress(done, len(table))
        left = zip(keys.take(pending).to_pylist(), recordings(selected(table, pending)), strict=True)
        for block, summary in embed_blocks(left, len(pending), options, engine, folder):
            done += len(block.keys)
            audio_secs += summary.audio_secs
            on_progress(done, len(table))
        stored = StoredResults(folder)
        places = stored.places(keys)
        if missing := int((places < 0).sum()):
            found = pluralize(missing, "recording")
            raise OutputError(f"{folder}: {found} without a result; run the same command again")
    return CompleteResults(partial(stored.at, places.tolist()), len(pending), audio_secs)


class TableParts:
    """The folder with the parts of a table, locked by this run: see `open_table_parts`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / "results"

    def identity(self) -> Identity | None:
        """The settings that affect the predictions; None if no run has started.

        Raises:
            OutputError: the file is damaged, or another version of ser-batch wrote it.
        """
        path = self.folder / IDENTITY
        if not path.exists():
            return None
        identity = read_own_json(path)
        if identity.pop("version", None) != _VERSION:
            raise OutputError(
                f"{path}: written by another version of ser-batch; give --restart to make the table again"
            )
        return identity

    def begin(self, listing: Listing, keys: pa.Array, identity: Identity, tables: Sequence[str]) -> None:
        """Store the inputs and settings of a new table.

        Args:
            listing: the inputs.
            keys: from `keys_of`.
            identity: the settings that affect the predictions.
            tables: SHA-256 of each file that may be at the table's path.
        """
        self.write_plan(listing, keys)
        self.note(tables, None)
        write_json(self.folder / IDENTITY, identity | {"version": _VERSION})

    def write_plan(self, listing: Listing, keys: pa.Array) -> None:
        """Store the recordings of the table, in order."""
        files = chain(listing.recordings["file"].to_pylist(), (one.file for one in listing.rejections))
        with open_atomically(self.folder / _PLAN, "wb") as file:
            pq.write_table(pa.table({"key": keys, "file": pa.array(files, pa.string())}), file)

    def note(self, tables: Sequence[str], summary: Mapping[str, Any] | None) -> None:
        """Store the SHA-256 of each file that may be at the table's path, and its counts; None: not finished."""
        write_json(self.folder / _TABLE, {"tables": tables, "tally": summary})

    def noted(self) -> dict[str, Any]:
        """The content that `note` stored: ``tables`` and ``tally``."""
        return read_own_json(self.folder / _TABLE)

    def changes(self, listing: Listing, keys: pa.Array) -> ListingChanges:
        """Differences between a listing with its files and the plan."""
        table = listing.recordings
        stored = StoredResults(self.results)
        changed = int(stored.is_changed(stored.places(keys[: len(table)]), table).sum())
        plan = read_columns(self.folder / _PLAN)
        planned = plan["key"].combine_chunks()
        if planned.equals(keys):
            return ListingChanges(changed=changed)
        added, removed = (
            int(pc.sum(pc.invert(pc.is_in(*pair))).as_py() or 0) for pair in ((keys, planned), (planned, keys))
        )
        files = chain(table["file"].to_pylist(), (one.file for one in listing.rejections))
        relocated = len(keys) == len(planned) and plan["file"].to_pylist() == list(files)
        return ListingChanges(added, removed, not added and not removed, relocated, changed)


def _n_missing(keys: pa.Array, among: pa.Array) -> int:
    return len(keys) - int(pc.sum(pc.is_in(keys, among)).as_py() or 0)


@contextmanager
def open_table_parts(table: Path, restart: bool = False) -> Iterator[TableParts]:
    """Open and lock the parts of a table.

    Args:
        table: path of the table; its folder must exist.
        restart: discard existing parts.

    Raises:
        OutputError: another run is writing the table, or it cannot be written.
    """
    folder = parts_folder(table)
    with os_errors_named(table):
        folder.mkdir(exist_ok=True)
        with locked(folder / LOCK, table):
            if restart:
                (folder / IDENTITY).unlink(missing_ok=True)
            if not (folder / IDENTITY).exists():
                for left in folder.glob("*/"):
                    shutil.rmtree(left)
            drop_partials(folder)
            yield TableParts(folder)
