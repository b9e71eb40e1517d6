"""Which channel of each recording is used, where it is not the front end's choice."""

from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa

from ser_batch.audio.decoders import MAX_CHANNELS
from ser_batch.audio.frontends import parse_channel
from ser_batch.audio.waveforms import open_audio
from ser_batch.corpus.table import MEAN_OF_CHANNELS, paths
from ser_batch.errors import AudioError, UsageError
from ser_batch.runtime.engine import Engine, watched
from ser_batch.storage.tables import with_column

# The mean of all channels, one of them, or each as a recording of its own.
Channels = Literal["mean", "each"] | int

_FILES_PER_TASK = 100


def parse_channels(text: str) -> Channels:
    """``mean``, ``each``, or the number of a channel, from 0.

    Raises:
        UsageError: none of these.
    """
    if text == "each":
        return "each"
    try:
        return parse_channel(text)
    except UsageError:
        raise UsageError(
            f"--channel {text}: give mean, each, or the number of a channel, from 0 to {MAX_CHANNELS - 1}"
        ) from None


def with_channels(table: pa.Table, channels: Channels, engine: Engine) -> pa.Table:
    """The recordings with their channel; of ``each``, one for every channel of the file, in order.

    For ``each`` the beginning of every file is read. A file that cannot be read stays one recording.

    Args:
        table: recordings of one listing.
        channels: what is wanted.
        engine: where files are opened.
    """
    if channels != "each":
        number = MEAN_OF_CHANNELS if channels == "mean" else channels
        return with_column(table, "channel", pa.array(np.full(len(table), number), pa.int16()))
    numbers = np.zeros(len(table), np.int64)
    tasks = ((at, list(paths(table.slice(at, _FILES_PER_TASK)))) for at in range(0, len(table), _FILES_PER_TASK))
    for outcome in engine.map(_channel_counts, tasks):
        if outcome.result is not None:
            at = outcome.task[0]
            numbers[at : at + len(outcome.result)] = list(outcome.result)
    rows = np.repeat(np.arange(len(table)), np.maximum(numbers, 1))
    first = np.flatnonzero(np.diff(rows, prepend=-1))  # each recording's first row
    channel = np.arange(len(rows)) - first[rows]
    return with_column(table.take(rows), "channel", pa.array(channel, pa.int16(), mask=numbers[rows] == 0))


def _channel_counts(task: tuple[int, list[str]]) -> bytes:
    """How many channels each file has; 0 where it cannot be read."""
    return bytes(map(_channel_count, task[1]))


@lru_cache(maxsize=16)
def _channel_count(path: str) -> int:
    """Cached, because a CSV may name many parts of one long file."""
    try:
        with watched(), open_audio(path) as decoder:
            return decoder.channels
    except AudioError:
        return 0
