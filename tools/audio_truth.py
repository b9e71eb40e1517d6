"""Test files of known length in all formats: whole, piped, joined, cut, or with a wrong header.

Each file is read as by ser-batch. The measured duration must be correct, or there must be a warning `cut` or an error.
"""

import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from random import Random

import av
import numpy as np
import soundfile

from ser_batch.audio.decoders import DURATION_TOLERANCE_SECS, Float32s
from ser_batch.audio.frontends import SPEECH
from ser_batch.audio.logmels import resample
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.table import Recording
from ser_batch.errors import AudioError
from ser_batch.runtime.engine import Engine
from tests.audio.encoding import Format, encode

_SHORTEST_SECS, _LONGEST_SECS = 2.0, 5.0


@dataclass(frozen=True)
class Kind:
    """A way to write a file.

    Attributes:
        written: by FFmpeg; or by libsndfile where the codec is ``sndfile:`` and a subtype.
        frame: samples of a frame; 1: every sample is kept.
        claims: whether the header has the length, so that a cut can be detected.
    """

    written: Format
    frame: int = 1
    claims: bool = True


def _pcm(codec: str, extension: str = "wav", **options: object) -> Format:
    return replace(Format(extension, codec), **options)  # type: ignore[arg-type]


_FRAGMENTS = {"movflags": "frag_every_frame+empty_moov+default_base_moof"}
_VBR = {"global_quality": "472", "flags": "+qscale"}

KINDS = {
    **{f"wav-{codec}": Kind(_pcm(codec)) for codec in ("pcm_s16le", "pcm_s24le", "pcm_f32le", "pcm_f64le")},
    **{f"wav-{codec}": Kind(_pcm(codec, rate_hz=8_000)) for codec in ("pcm_u8", "pcm_alaw", "pcm_mulaw")},
    "wav-adpcm_ms": Kind(_pcm("adpcm_ms"), 1000),
    "wav-adpcm_ima": Kind(_pcm("adpcm_ima_wav"), 2041),
    "wav-mp3": Kind(_pcm("libmp3lame", rate_hz=44_100), 1152),
    "rf64": Kind(_pcm("pcm_s16le", container_options={"rf64": "always"})),
    "w64": Kind(_pcm("pcm_s16le", "w64")),
    "aiff": Kind(_pcm("pcm_s16be", "aiff")),
    "au": Kind(_pcm("pcm_s16be", "au")),
    "caf-pcm": Kind(_pcm("pcm_s16be", "caf")),
    "caf-alac": Kind(_pcm("alac", "caf", sample_format="s16p"), 4096),
    "voc": Kind(_pcm("pcm_s16le", "voc"), claims=False),
    "tta": Kind(_pcm("tta", "tta", sample_format="s16"), 1),
    "wv": Kind(_pcm("wavpack", "wv", sample_format="s16p"), 1),
    "flac": Kind(_pcm("flac", "flac", sample_format="s16")),
    "ogg-flac": Kind(_pcm("flac", "ogg", sample_format="s16", container="ogg")),
    "ogg-vorbis": Kind(_pcm("sndfile:VORBIS", "ogg")),
    "ogg-opus": Kind(Format("opus", "libopus", 48_000, 32_000), 960),
    "mp3-cbr": Kind(Format("mp3", "libmp3lame", 44_100, 96_000), 1152),
    "mp3-8kHz": Kind(Format("mp3", "libmp3lame", 8_000, 16_000), 576),
    "mp3-vbr": Kind(Format("mp3", "libmp3lame", 44_100, options=_VBR), 1152),
    "mp3-vbr-without-header": Kind(
        Format("mp3", "libmp3lame", 16_000, options=_VBR, container_options={"write_xing": "0"}), 576, False
    ),
    "mp2": Kind(Format("mp2", "mp2", 16_000, 64_000), 1152, False),
    "aac-adts": Kind(Format("aac", "aac", 16_000, 48_000, "adts"), 1024, False),
    "ac3": Kind(Format("ac3", "ac3", 48_000, 96_000), 1536, False),
    "eac3": Kind(Format("eac3", "eac3", 48_000, 96_000), 1536, False),
    "amr": Kind(Format("amr", "libopencore_amrnb", 8_000, 12_200), 160, False),
    "3gp-amr": Kind(Format("3gp", "libopencore_amrnb", 8_000, 12_200), 160),
    "m4a-aac": Kind(Format("m4a", "aac", 44_100, 64_000), 1024),
    "m4a-aac-faststart": Kind(Format("m4a", "aac", 16_000, 64_000, container_options={"movflags": "faststart"}), 1024),
    "m4a-alac": Kind(Format("m4a", "alac", sample_format="s16p")),
    "mp4-video": Kind(Format("mp4", "aac", 16_000, 64_000, video=True), 1024),
    "mov-pcm": Kind(_pcm("pcm_s16le", "mov")),
    "avi-pcm": Kind(_pcm("pcm_s16le", "avi")),
    "avi-mp3": Kind(Format("avi", "libmp3lame", 44_100, 96_000), 1152),
    "wma": Kind(Format("wma", "wmav2", 44_100, 48_000), 2048),
    "flv": Kind(Format("flv", "aac", 44_100, 48_000), 1024),
    "mka-flac": Kind(_pcm("flac", "mka", sample_format="s16")),
    "mka-aac": Kind(Format("mka", "aac", 16_000, 48_000), 1024),
    "mka-pcm": Kind(_pcm("pcm_s16le", "mka")),
    "webm-opus": Kind(Format("webm", "libopus", 48_000, 32_000), 960),
    "mpegts-mp2": Kind(Format("ts", "mp2", 16_000, 64_000, "mpegts"), 1152, False),
    "mpegts-aac": Kind(Format("ts", "aac", 16_000, 48_000, "mpegts"), 1024, False),
    "mpg": Kind(Format("mpg", "mp2", 44_100, 96_000), 1152, False),
    # Written to a pipe: the length cannot be filled in at the end.
    **{
        f"piped-{name}": Kind(replace(written, piped=True, container=container), frame, claims)
        for name, written, container, frame, claims in (
            ("wav", _pcm("pcm_s16le"), "wav", 1, False),
            ("w64", _pcm("pcm_s16le", "w64"), "w64", 1, False),
            ("au", _pcm("pcm_s16be", "au"), "au", 1, False),
            ("flac", _pcm("flac", "flac", sample_format="s16"), "flac", 1, False),
            ("ogg-opus", Format("opus", "libopus", 48_000, 32_000), "ogg", 960, True),
            ("mp3-cbr", Format("mp3", "libmp3lame", 44_100, 96_000), "mp3", 1152, False),
            ("mp3-vbr", Format("mp3", "libmp3lame", 16_000, options=_VBR), "mp3", 576, False),
            ("mp4", Format("mp4", "aac", 16_000, 48_000, container_options=_FRAGMENTS), "mp4", 1024, False),
            ("mka-aac", Format("mka", "aac", 16_000, 48_000), "matroska", 1024, False),
            ("webm-opus", Format("webm", "libopus", 48_000, 32_000), "webm", 960, False),
            ("flv", Format("flv", "aac", 44_100, 48_000), "flv", 1024, False),
        )
    },
}

# Where a header claims a length: a mark, how far behind its begin the field lies, and the field's form.
_LENGTH_FIELDS = {
    "wav-pcm_s16le": (b"data", 4, "<I"),
    "wav-pcm_f32le": (b"data", 4, "<I"),
    "wav-pcm_mulaw": (b"data", 4, "<I"),
    "piped-wav": (b"data", 4, "<I"),
    "aiff": (b"SSND", 4, ">I"),
    "au": (b".snd", 8, ">I"),
    "caf-pcm": (b"data", 4, ">q"),
    "mp3-cbr": (b"Info", 8, ">I"),
    "mp3-vbr": (b"Xing", 8, ">I"),
}


@dataclass(frozen=True)
class Finding:
    """Result for one file.

    Attributes:
        name: kind and treatment.
        true_secs, found_secs: true and measured length.
        tolerance_secs: how far they may differ: padding of the codec.
        reported: the warning or the error, or empty.
    """

    name: str
    true_secs: float
    found_secs: float
    tolerance_secs: float
    reported: str

    @property
    def is_wrong(self) -> bool:
        """Whether the length is wrong without a warning or an error."""
        return not self.reported and abs(self.true_secs - self.found_secs) > self.tolerance_secs

    @property
    def is_false_alarm(self) -> bool:
        """Whether a whole file has a warning or an error."""
        return bool(self.reported) and self.name.endswith(" whole")


def make_case(number: int, seed: int, wavs: Sequence[Path], folder: Path) -> tuple[Path, str, float, float]:
    """Write one file: its path, its name, its true length and the tolerance in seconds."""
    dice = Random(f"truth {seed} {number}")
    name = sorted(KINDS)[number % len(KINDS)]
    kind = KINDS[name]
    treatments = ["whole", "cut", "cut", "joined"] + ["wrong header"] * (2 if name in _LENGTH_FIELDS else 0)
    treatment = treatments[number // len(KINDS) % len(treatments)]
    path, secs = _write(kind, dice, wavs, folder / "a")
    tolerance = 0.02 if kind.frame == 1 else 3 * kind.frame / kind.written.rate_hz
    content = path.read_bytes()
    if treatment == "joined":
        other, more_secs = _write(kind, dice, wavs, folder / "b")
        content, secs, tolerance = content + other.read_bytes(), secs + more_secs, 2 * tolerance
    elif treatment == "cut":
        content = content[: max(int(dice.uniform(0.05, 0.98) * len(content)), 1)]
        tolerance += DURATION_TOLERANCE_SECS
        if not kind.claims:
            secs, tolerance = _kept_secs(path, len(content), secs), tolerance + 0.05
    elif treatment == "wrong header":
        mark, offset, form = _LENGTH_FIELDS[name]
        at = content.index(mark) + offset
        (claimed,) = struct.unpack_from(form, content, at)
        largest = 0xFFFFFFFF if form[1] == "I" else -1  # how writers to pipes note an unknown length
        wrong = dice.choice((0, claimed // 2, min(claimed * 3 // 2, 0xFFFFFFFF), largest))
        changed = bytearray(content)
        struct.pack_into(form, changed, at, wrong)
        content, treatment = bytes(changed), f"wrong header {wrong}"
    damaged = folder / f"damaged{path.suffix}"
    damaged.write_bytes(content)
    return damaged, f"{name} {treatment}", secs, tolerance


def _write(kind: Kind, dice: Random, wavs: Sequence[Path], stem: Path) -> tuple[Path, float]:
    written = kind.written
    n_samples = round(dice.uniform(_SHORTEST_SECS, _LONGEST_SECS) * written.rate_hz)
    samples = np.resize(np.concatenate([_speech(wav, written.rate_hz) for wav in dice.sample(wavs, 2)]), n_samples)
    path = stem.with_suffix(f".{written.extension}")
    if written.codec.startswith("sndfile:"):
        soundfile.write(path, samples, written.rate_hz, format="OGG", subtype=written.codec[8:])
    else:
        if dice.random() < 0.3 and "amr" not in written.codec:
            samples = np.stack([samples, 0.5 * samples], axis=1)
        encode(path, samples, written.rate_hz, written)
    return path, n_samples / written.rate_hz


@lru_cache(maxsize=64)
def _speech(wav: Path, rate_hz: int) -> Float32s:
    samples, own_hz = soundfile.read(wav, dtype="float32")
    return resample(samples, own_hz, rate_hz)


def _kept_secs(path: Path, n_bytes: int, secs: float) -> float:
    """The length of the packets that lie within a file's first bytes."""
    by_bytes = secs * n_bytes / path.stat().st_size
    try:
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(container.streams.audio[0]) if p.size]
    except av.FFmpegError:
        return by_bytes
    if len(packets) < 3 or any(packet.pos is None for packet in packets):
        return by_bytes
    kept = sum((packet.pos or 0) + packet.size <= n_bytes for packet in packets)
    return secs * kept / len(packets)


def check_case(number: int, seed: int, wavs: Sequence[Path]) -> Finding:
    """Write one file and read it."""
    with tempfile.TemporaryDirectory() as folder:
        path, name, secs, tolerance = make_case(number, seed, wavs, Path(folder))
        windows = LogMelWindows(Recording("a", str(path)), SPEECH)
        try:
            for _ in windows:
                pass
        except AudioError as error:
            return Finding(name, secs, 0.0, tolerance, f"error: {error.reason}")
    reported = "cut" if "cut" in windows.warnings else ""
    return Finding(name, secs, windows.duration_secs, tolerance, reported)


@dataclass
class TruthSummary:
    """Counts of all files by treatment and result, and the wrong results."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count one."""
        treatment = finding.name.split(" ", 1)[1].split(" header")[0]
        reported = finding.reported.split(":")[0] or "length is true"
        self.outcomes[treatment, reported] += 1
        if finding.is_wrong or finding.is_false_alarm:
            self.wrong.append(
                f"{finding.name}: {finding.true_secs:.3f} s, read as {finding.found_secs:.3f} s "
                f"(tolerance {finding.tolerance_secs:.3f} s); reported: {finding.reported or 'nothing'}"
            )


def check_truth(numbers: Iterable[int], seed: int, wavs: Sequence[Path], engine: Engine) -> TruthSummary:
    """Write and read the files, and count the results."""
    summary = TruthSummary()
    for outcome in engine.map(partial(check_case, seed=seed, wavs=tuple(wavs)), numbers):
        if outcome.result is None:
            summary.wrong.append(f"case {outcome.task}: {outcome.failure}")
        else:
            summary.add(outcome.result)
    return summary
