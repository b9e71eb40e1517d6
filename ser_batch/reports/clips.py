"""Parts of recordings on a page: a log-mel spectrogram and a player."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from markupsafe import Markup

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import SPEECH
from ser_batch.audio.logmels import log_mel_at_rate, resample
from ser_batch.audio.waveforms import mono_blocks, open_audio
from ser_batch.errors import AudioError
from ser_batch.reports.drawing import log_mels, svg_text

# The longest part that a page has of a recording.
CLIP_SECS = 10.0


@dataclass(frozen=True)
class Clip:
    """A part of a recording.

    Attributes:
        caption: one line.
        picture: its log-mel spectrogram, as SVG text.
        sound: its audio, as the URL of an Ogg Opus file.
    """

    caption: str
    picture: Markup
    sound: str


def make_clip(path: Path, start_secs: float, caption: str, name: str) -> Clip | None:
    """A clip of at most `CLIP_SECS`; None if the file cannot be read.

    Args:
        path: of the audio file.
        start_secs: start of the part.
        caption: one line.
        name: of the picture, different from all others on the page.
    """
    try:
        samples = _samples(path, start_secs)
    except AudioError:
        return None
    if not len(samples):
        return None
    spectrogram = log_mel_at_rate(samples, SPEECH)
    description = f"Log-mel spectrogram: {caption}"
    picture = svg_text(lambda: log_mels([spectrogram], [""], SPEECH, width=4.6), name, description)
    file = io.BytesIO()
    soundfile.write(file, samples, SPEECH.rate_hz, format="OGG", subtype="OPUS", compression_level=0.8)
    sound = "data:audio/ogg;base64," + base64.b64encode(file.getvalue()).decode()
    return Clip(caption, Markup(picture), sound)  # noqa: S704  # made by Matplotlib, which escapes


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
