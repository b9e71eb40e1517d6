"""One recording in the formats that phones, browsers and call centres send; FFmpeg writes them."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import IO

import av
import numpy as np
import soundfile

from ser_batch.audio.decoders import Float32s


@dataclass(frozen=True)
class Format:
    """How FFmpeg is to write a recording.

    Attributes:
        extension: of the file's name.
        codec: FFmpeg's encoder.
        rate_hz: the sampling rate that it is written at.
        bit_rate: in bits per second; None: the codec's own.
        container: FFmpeg's muxer; None: by the extension.
        sample_format: that the encoder is given; None: the first that it takes.
        video: whether a picture track goes with it.
        options: of the encoder.
        container_options: of the muxer.
        piped: whether it is written as to a pipe, so that no length can be filled in at the end.
    """

    extension: str
    codec: str
    rate_hz: int = 16_000
    bit_rate: int | None = None
    container: str | None = None
    sample_format: str | None = None
    video: bool = False
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)
    piped: bool = False


LOSSLESS = {
    "m4a-alac": Format("m4a", "alac", sample_format="s16p"),
    "mka-flac": Format("mka", "flac", sample_format="s16"),
    "tta": Format("tta", "tta", sample_format="s16"),
    "wv": Format("wv", "wavpack", sample_format="s16p"),
    "avi-pcm": Format("avi", "pcm_s16le", video=True),
    "mov-pcm": Format("mov", "pcm_s16le"),
}

LOSSY = {
    "m4a-aac": Format("m4a", "aac", bit_rate=64_000),
    "aac": Format("aac", "aac", bit_rate=64_000, container="adts"),
    "mp4-video": Format("mp4", "aac", bit_rate=64_000, video=True),
    "3gp-amr": Format("3gp", "amr_nb", rate_hz=8_000, bit_rate=12_200),
    "amr": Format("amr", "amr_nb", rate_hz=8_000, bit_rate=12_200),
    "webm-opus": Format("webm", "libopus", rate_hz=48_000, bit_rate=48_000),
    "mka-opus": Format("mka", "libopus", rate_hz=16_000, bit_rate=32_000),
    "wma": Format("wma", "wmav2", bit_rate=48_000),
    "ac3": Format("ac3", "ac3", rate_hz=48_000, bit_rate=128_000),
    "mpegts-mp2": Format("ts", "mp2", bit_rate=96_000, container="mpegts"),
    "flv-mp3": Format("flv", "libmp3lame", rate_hz=44_100, bit_rate=96_000),
}

FFMPEG_FORMATS = LOSSLESS | LOSSY


class _Pipe:
    """A file that can only be written from its beginning to its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.write = file.write


def encode(path: Path, samples: Float32s, rate_hz: int, written: Format) -> Path:
    """Write a waveform, float32 ``(samples,)`` or ``(samples, 2)``, as FFmpeg writes it."""
    channels = samples.reshape(len(samples), -1).T
    layout = "mono" if len(channels) == 1 else "stereo"
    with ExitStack() as stack:
        target = _Pipe(stack.enter_context(open(path, "wb"))) if written.piped else str(path)
        container = stack.enter_context(
            av.open(target, "w", format=written.container, container_options=written.container_options)
        )
        stream = container.add_stream(written.codec, rate=written.rate_hz, layout=layout, options=written.options)
        if written.sample_format is not None:
            stream.format = written.sample_format
        if written.bit_rate is not None:
            stream.bit_rate = written.bit_rate
        if written.video:
            picture = container.add_stream("mpeg4", rate=25)
            picture.width, picture.height, picture.pix_fmt = 64, 48, "yuv420p"
            for number in range(len(samples) * 25 // rate_hz):
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number % 256, np.uint8), format="rgb24")
                container.mux(picture.encode(frame))
            container.mux(picture.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels, np.float32), format="fltp", layout=layout)
        frame.rate, frame.pts, frame.time_base = rate_hz, 0, Fraction(1, rate_hz)
        codec = stream.codec_context
        codec.open(strict=False)
        to_codec = av.AudioResampler(codec.format, codec.layout, codec.rate, frame_size=codec.frame_size or 1024)
        for part in [*to_codec.resample(frame), *to_codec.resample(None)]:
            container.mux(stream.encode(part))
        container.mux(stream.encode(None))
    return path


def encode_sample(folder: Path, name: str, source: Path) -> Path:
    """One of `FFMPEG_FORMATS`, made from a WAV."""
    samples, rate_hz = soundfile.read(source, dtype="float32")
    written = FFMPEG_FORMATS[name]
    return encode(folder / f"{name}.{written.extension}", samples, rate_hz, written)
