"""Selection of channels, if it differs from the front end's choice."""

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

# The mean of all channels, one channel, or each channel as a separate recording.
Channels = Literal["mean", "each"] | int

_FILES_PER_TASK = 100


def parse_channels(text: str) -> Channels:
    """Parse ``mean``, ``each``, or the number of a channel, from 0.

    Raises:
        UsageError: the text is none of these.
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
    """Set the channel of every recording; with ``each``, one recording for every channel of the file, in order.

    With ``each``, the beginning of every file is read. An unreadable file gives one recording.

    Args:
        table: recordings of one listing.
        channels: the channels to use.
        engine: runs the tasks that open files.
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
    """Number of channels of each file, one byte each; 0 for an unreadable file."""
    return bytes(map(_channel_count, task[1]))


@lru_cache(maxsize=16)
def _channel_count(path: str) -> int:
    """Cached, because a CSV may list many parts of one long file."""
    try:
        with watched(), open_audio(path) as decoder:
            return decoder.channels
    except AudioError:
        return 0
