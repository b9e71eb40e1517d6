"""Parts of recordings on a page: a log-mel spectrogram, and a player where the audio is there."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from markupsafe import Markup

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import SPEECH, FrontEnd
from ser_batch.audio.logmels import log_mel_at_rate, resample
from ser_batch.audio.waveforms import mono_blocks, open_audio
from ser_batch.errors import AudioError
from ser_batch.records.folder import RecordFolder
from ser_batch.records.reader import Selection, read_examples
from ser_batch.reports.drawing import log_mels, svg_text

# The longest part that a page has of a recording.
CLIP_SECS = 10.0


@dataclass(frozen=True)
class Part:
    """A part of a recording that a page shows.

    Attributes:
        file: as in the predictions.
        start_secs: start of the part.
        caption: one line.
        name: of the picture, different from all others on the page.
    """

    file: str
    start_secs: float
    caption: str
    name: str


@dataclass(frozen=True)
class Clip:
    """A part of a recording on the page.

    Attributes:
        caption: one line.
        picture: its log-mel spectrogram, as SVG text.
        sound: its audio, as the URL of an Ogg Opus file; None: there is none.
    """

    caption: str
    picture: Markup
    sound: str | None = None


# Makes the clips of parts; None for a part that cannot be read.
ClipMaker = Callable[[Sequence[Part]], list[Clip | None]]


def clips_of_audio(folder: Path) -> ClipMaker:
    """Clips with a player, from the audio files in a folder."""
    return lambda parts: [_clip_of_file(folder / part.file, part) for part in parts]


def clips_of_records(records: RecordFolder) -> ClipMaker:
    """Clips without a player, from the log-mels of a record folder."""

    def make(parts: Sequence[Part]) -> list[Clip | None]:
        wanted = {(part.file, round(part.start_secs, 3)): part for part in parts}
        found: dict[Part, Clip] = {}
        for shard in records.shards():
            (rows,) = records.manifest("file", "start", shards=[shard])
            keys = zip(rows["file"].to_pylist(), rows["start"].to_pylist(), strict=True)
            chosen = np.array([(file, round(start, 3)) in wanted for file, start in keys], np.bool_)
            if not chosen.any():
                continue
            for example in read_examples(records, Selection(shard.name, (shard,), chosen)):
                part = wanted[example.file, round(example.start, 3)]
                found[part] = Clip(part.caption, _picture(example.log_mel, records.front_end, part))
        return [found.get(part) for part in parts]

    return make


def _clip_of_file(path: Path, part: Part) -> Clip | None:
    try:
        samples = _samples(path, part.start_secs)
    except AudioError:
        return None
    if not len(samples):
        return None
    file = io.BytesIO()
    soundfile.write(file, samples, SPEECH.rate_hz, format="OGG", subtype="OPUS", compression_level=0.8)
    sound = "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode()
    return Clip(part.caption, _picture(log_mel_at_rate(samples, SPEECH), SPEECH, part), sound)


def _picture(spectrogram: Float32s, front_end: FrontEnd, part: Part) -> Markup:
    description = f"Log-mel spectrogram: {part.caption}"
    svg = svg_text(lambda: log_mels([spectrogram], [""], front_end, width=4.6), part.name, description)
    return Markup(svg)  # noqa: S704  # made by Matplotlib, which escapes


def _samples(path: Path, start_secs: float) -> Float32s:
    """The mean of the channels, float32 ``(samples,)``, at the rate of the front end, from -1 to 1.

    Raises:
        AudioError: the file cannot be decoded.
    """
    with open_audio(path, start_secs) as decoder:
        wanted, blocks = round(CLIP_SECS * decoder.rate_hz), []
        for block in mono_blocks(decoder, "mean"):
            blocks.append(block)
            wanted -= len(block)
            if wanted <= 0:
                break
        samples = np.concatenate([*blocks, np.zeros(0, np.float32)])[: round(CLIP_SECS * decoder.rate_hz)]
        if not np.isfinite(samples).all():
            raise AudioError("check", "has a sample that is not finite")
        return np.clip(resample(samples, decoder.rate_hz, SPEECH.rate_hz), -1.0, 1.0)
