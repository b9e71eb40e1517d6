"""Which channel of each recording is used, where it is not the front end's choice."""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal

from ser_batch.audio.decoders import MAX_CHANNELS
from ser_batch.audio.frontends import parse_channel
from ser_batch.audio.waveforms import open_audio
from ser_batch.corpus.table import Recording, Recordings
from ser_batch.errors import AudioError, UsageError
from ser_batch.runtime.engine import Engine
from ser_batch.runtime.process import expect_progress

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


def with_channels(recordings: Recordings, channels: Channels, engine: Engine) -> Recordings:
    """The recordings with their channel; of ``each``, one for every channel of the file, in order.

    For ``each`` the beginning of every file is read. A file that cannot be read stays one recording.

    Args:
        recordings: of one listing.
        channels: what is wanted.
        engine: where files are opened.
    """
    if channels != "each":
        return Recordings(dataclasses.replace(recording, channel=channels) for recording in recordings)
    parts = [recordings[at : at + _FILES_PER_TASK] for at in range(0, len(recordings), _FILES_PER_TASK)]
    numbers: dict[int, bytes] = {}
    for outcome in engine.map(_channel_counts, list(enumerate(parts))):
        at, part = outcome.task
        numbers[at] = outcome.result if outcome.result is not None else bytes(len(part))

    def all_channels() -> Iterator[Recording]:
        for at, part in enumerate(parts):
            for recording, number in zip(part, numbers[at], strict=True):
                if not number:
                    yield recording
                for channel in range(number):
                    yield dataclasses.replace(recording, channel=channel)

    return Recordings(all_channels())


def _channel_counts(task: tuple[int, Recordings]) -> bytes:
    """How many channels each recording has; 0 where it cannot be read."""
    return bytes(_channel_count(recording.path) for recording in task[1])


@lru_cache(maxsize=16)
def _channel_count(path: str) -> int:
    """Cached, because a CSV may name many parts of one long file."""
    expect_progress()
    try:
        with open_audio(path) as decoder:
            return decoder.channels
    except AudioError:
        return 0
    finally:
        expect_progress(0)
