"""The front end: all settings of the transform from waveform to log-mel spectrogram."""

import re
from typing import Any, Literal

from ser_batch.audio.decoders import MAX_CHANNELS
from ser_batch.errors import FrontEndError, UsageError
from ser_batch.storage.fingerprints import json_fingerprint
from ser_batch.storage.settings import Settings


class FrontEnd(Settings):
    """Settings of the transform from an audio file to the input of a network.

    The steps, in order: selection of a channel, resampling, trimming, Wiener filter, adjustment to
    ``length_secs``, mel power spectrogram (centred Hann frames, Slaney mel filters), decibels.

    Attributes:
        rate_hz: sampling rate that audio is resampled to.
        n_fft: frame length in samples.
        hop_length: step between frames in samples.
        n_mels: number of mel bands.
        fmin_hz: lower edge of the lowest mel band.
        fmax_hz: upper edge of the highest mel band.
        length_secs: length of every example; with ``keep``, of the longest.
        shorter: processing of shorter audio: ``pad`` adds zeros at the end; ``keep`` gives an example of the
            audio's length.
        longer: processing of longer audio: ``truncate`` uses its beginning; ``window`` makes overlapping windows,
            the last of which ends at the end of the audio.
        window_hop_secs: step between windows; None when truncating.
        trim_top_db: frames quieter than the loudest by this many dB are removed from both ends; None: no trimming.
        wiener: whether a Wiener filter against noise is applied.
        db_reference: power of 0 dB: ``max``, the loudest bin of the example, or ``one``, a power of 1.
        db_floor: lower limit of the power.
        db_range: lower limit of the level, in dB under the loudest bin; None: unlimited.
        channel: ``mean`` of all channels, or the number of one channel, from 0.
    """

    rate_hz: int
    n_fft: int
    hop_length: int
    n_mels: int
    fmin_hz: float
    fmax_hz: float
    length_secs: float
    shorter: Literal["pad", "keep"]
    longer: Literal["truncate", "window"]
    window_hop_secs: float | None
    trim_top_db: float | None
    wiener: bool
    db_reference: Literal["max", "one"]
    db_floor: float
    db_range: float | None
    channel: Literal["mean"] | int = "mean"

    @property
    def n_samples(self) -> int:
        """Samples of the longest example, at ``rate_hz``."""
        return round(self.length_secs * self.rate_hz)

    @property
    def n_frames(self) -> int:
        """Frames of the longest example; frames are centred: half of the first and last is outside the audio."""
        return 1 + self.n_samples // self.hop_length

    @property
    def window_hop_samples(self) -> int:
        """Samples between the starts of two windows; a whole example when truncating."""
        return round((self.window_hop_secs or self.length_secs) * self.rate_hz)

    @property
    def shape(self) -> tuple[int, int | None]:
        """``(n_mels, n_frames)`` of every log-mel spectrogram; the second is None if the number of frames varies."""
        return self.n_mels, self.n_frames if self.shorter == "pad" else None

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all values."""
        return json_fingerprint(self.to_json())

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FrontEnd":
        """The front end from the output of ``to_json``.

        Raises:
            FrontEndError: a value is missing, unknown or invalid.
        """
        return cls.parse(values, "front end", FrontEndError, "; was it written by another version?")


# The front end of the published notebook that this project is based on. Its values never change.
SEED = FrontEnd(
    rate_hz=44_100,
    n_fft=2048,
    hop_length=512,
    n_mels=128,
    fmin_hz=0.0,
    fmax_hz=22_050.0,
    length_secs=3.0,
    shorter="pad",
    longer="truncate",
    window_hop_secs=None,
    trim_top_db=60.0,
    wiener=True,
    db_reference="max",
    db_floor=1e-10,
    db_range=80.0,
)

# For speech at 16 kHz, the sampling rate of most corpora: the highest band ends at 8 kHz, and below 1 kHz bands are
# narrow enough (16 Hz) to resolve the harmonics of a voice.
SPEECH = FrontEnd(
    rate_hz=16_000,
    n_fft=1024,
    hop_length=256,
    n_mels=192,
    fmin_hz=0.0,
    fmax_hz=8_000.0,
    length_secs=10.0,
    shorter="keep",
    longer="window",
    window_hop_secs=5.0,
    trim_top_db=None,
    wiener=False,
    db_reference="one",
    db_floor=1e-8,
    db_range=None,
)

PRESETS = {"seed": SEED, "speech": SPEECH}


def preset(name: str, channel: Literal["mean"] | int = "mean") -> FrontEnd:
    """Find a front end by name, for one channel or the mean of all.

    Raises:
        UsageError: there is no such preset.
    """
    try:
        return PRESETS[name].replace(channel=channel)
    except KeyError:
        known = ", ".join(sorted(PRESETS))
        raise UsageError(f"--front-end {name}: no such preset; choose one of {known}") from None


def parse_channel(text: str) -> Literal["mean"] | int:
    """Parse ``mean``, or the number of a channel, from 0.

    Raises:
        UsageError: the text is neither.
    """
    if text == "mean":
        return "mean"
    if re.fullmatch("[0-9]{1,2}", text) and int(text) < MAX_CHANNELS:
        return int(text)
    raise UsageError(f"--channel {text}: give mean, or the number of a channel, from 0 to {MAX_CHANNELS - 1}")


def preset_name(front_end: FrontEnd) -> str:
    """The name of the front end's preset, ignoring the channel, or ``custom``."""
    plain = front_end.replace(channel="mean")
    return next((name for name, preset in PRESETS.items() if preset == plain), "custom")


def build_options(front_end: FrontEnd) -> str:
    """The options of ``build-records`` that select the front end, or its fingerprint if it is not a preset."""
    if (name := preset_name(front_end)) == "custom":
        return f"custom, {front_end.fingerprint[:12]}"
    return f"--front-end {name}" + ("" if front_end.channel == "mean" else f" --channel {front_end.channel}")
