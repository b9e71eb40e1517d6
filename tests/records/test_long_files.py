"""Hours in one file: memory that does not grow with them, and parts that are read alone."""

import csv
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from ser_batch.audio.logmels import log_mel
from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import Recording
from ser_batch.records.build import BuildResult, build_records
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.runtime.local import LocalEngine
from tests.frontends import WINDOWED
from tests.manifests import example_rows
from tools.fuzz_audio import MeasuringEngine

MINUTE, HOUR = 60, 3600
RATE_HZ = 16_000
TONE_EVERY_SECS = 300  # the tone's pitch says where it stands

# One window in 30 s and one frame a second: records of hours stay small.
COARSE = WINDOWED.replace(length_secs=30.0, window_hop_secs=30.0, hop_length=RATE_HZ, n_mels=16)

MEMORY_OF_WINDOWS = """
import sys
from ser_batch.audio.frontends import PRESETS
from ser_batch.corpus.table import Recording
from ser_batch.audio.windows import LogMelWindows
from ser_batch.runtime.process import keep_freed_memory
from ser_batch.errors import AudioError
from tools.fuzz_audio import peak_mb

keep_freed_memory()
windows = LogMelWindows(Recording("long.wav", sys.argv[1]), PRESETS[sys.argv[2]])
try:
    print(sum(1 for _ in windows), windows.duration_secs)
except AudioError as error:
    print(error)
print(peak_mb())
"""


def tone(at_secs: int) -> NDArray[np.float64]:
    pitch_hz = 300 + 20 * at_secs // TONE_EVERY_SECS
    return 0.5 * np.sin(2 * np.pi * pitch_hz * np.arange(RATE_HZ) / RATE_HZ)


def write_long(path: Path, secs: int) -> Path:
    """A 16-bit WAV of nothing but holes, with a second of tone every five minutes."""
    n_bytes = 2 * RATE_HZ * secs
    parts = (b"RIFF", 36 + n_bytes, b"WAVE", b"fmt ", 16, 1, 1, RATE_HZ, 2 * RATE_HZ, 2, 16, b"data", n_bytes)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(struct.pack("<4sI4s4sIHHIIHH4sI", *parts))
        for at_secs in range(0, secs, TONE_EVERY_SECS):
            file.seek(44 + 2 * RATE_HZ * at_secs)
            file.write((32_768 * tone(at_secs)).astype("<i2").tobytes())
        file.truncate(44 + n_bytes)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("long")
    yield folder
    for path in folder.rglob("*.wav"):
        path.unlink()


@pytest.fixture(scope="module")
def ten_hours(folder: Path) -> Path:
    path = write_long(folder / "ten" / "hours.wav", 10 * HOUR)
    assert path.stat().st_blocks * 512 < path.stat().st_size / 10
    return path


@dataclass(frozen=True)
class Said:
    line: str
    peak_mb: float


def read_windows(path: Path, front_end: str) -> Said:
    """Read all windows of a file in a process of its own and keep none."""
    command = [sys.executable, "-c", MEMORY_OF_WINDOWS, str(path), front_end]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert ended.returncode == 0, ended.stderr
    line, peak = ended.stdout.splitlines()
    return Said(line, float(peak))


def build(source: Path, out: Path) -> tuple[BuildResult, float]:
    plan = plan_build(label_recordings(list_source(str(source))), BuildOptions(COARSE, SplitPlan("none")))
    with LocalEngine(1) as local:
        engine = MeasuringEngine(local)
        return build_records(plan, out, engine), engine.peak_mb


def read_bytes() -> int:
    """How many bytes this process has read so far."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


@pytest.mark.slow
def test_ten_hours_of_windows_take_the_memory_of_ten_minutes(folder: Path, ten_hours: Path) -> None:
    short = read_windows(write_long(folder / "minutes.wav", 10 * MINUTE), "speech")
    long = read_windows(ten_hours, "speech")
    assert short.line == "119 600.0"
    assert long.line == "7199 36000.0"
    assert long.peak_mb - short.peak_mb < 20


def test_a_build_of_two_hours_takes_the_memory_of_ten_minutes(folder: Path, tmp_path: Path) -> None:
    peaks = {}
    for minutes in (10, 120):
        write_long(folder / f"{minutes}" / "calm" / "long.wav", minutes * MINUTE)
        write_long(folder / f"{minutes}" / "angry" / "short.wav", 1)
        result, peaks[minutes] = build(folder / f"{minutes}", tmp_path / f"{minutes}")
        assert result.records.n_examples() == 2 * minutes + 1
        assert not result.n_errors
    assert peaks[120] - peaks[10] < 20


def test_what_a_truncating_front_end_cannot_hold_is_refused(folder: Path, ten_hours: Path) -> None:
    short = read_windows(write_long(folder / "second.wav", 1), "seed")
    long = read_windows(ten_hours, "seed")
    assert long.line == (
        "is longer than 1 h, all of which this front end would hold in memory; "
        "give start and end, or use a front end with windows"
    )
    hour_mb = 4 * RATE_HZ * HOUR / 2**20
    assert long.peak_mb - short.peak_mb < 1.1 * hour_mb


@pytest.mark.parametrize("start_secs", [0, 5 * HOUR, 10 * HOUR - 300])
def test_a_part_is_read_alone(ten_hours: Path, start_secs: int) -> None:
    recording = Recording("hours.wav", str(ten_hours), start_secs=start_secs, end_secs=start_secs + 3)
    begin = read_bytes()
    (window,) = LogMelWindows(recording, WINDOWED)
    assert read_bytes() - begin < 2e6  # of 1152e6
    assert (window.start_secs, window.end_secs) == (start_secs, start_secs + 3)
    expected = np.concatenate([tone(start_secs), np.zeros(2 * RATE_HZ)]).astype(np.float32)
    np.testing.assert_allclose(window.log_mel, log_mel(expected, RATE_HZ, WINDOWED), atol=0.1)


def test_reading_a_late_part_takes_no_time(ten_hours: Path) -> None:
    def secs(recording: Recording) -> float:
        began = time.perf_counter()
        assert sum(1 for _ in LogMelWindows(recording, COARSE))
        return time.perf_counter() - began

    late = Recording("hours.wav", str(ten_hours), start_secs=9 * HOUR, end_secs=9 * HOUR + 30)
    hour = Recording("hours.wav", str(ten_hours), start_secs=0, end_secs=HOUR)
    secs(late)
    assert min(secs(late) for _ in range(3)) < secs(hour) / 5


def test_rows_with_times_are_parts_of_a_long_file(ten_hours: Path, tmp_path: Path) -> None:
    file = os.path.relpath(ten_hours, tmp_path)
    with open(tmp_path / "parts.csv", "w", newline="") as table:
        csv.writer(table).writerow(["file", "start", "end", "label"])
        csv.writer(table).writerows((file, start, start + 30, "calm") for start in range(0, 10 * HOUR, HOUR))
    result, _ = build(tmp_path / "parts.csv", tmp_path / "out")
    assert not result.n_errors
    times = sorted((row["start"], row["end"]) for row in example_rows(result.records))
    assert times == [(start_secs, start_secs + 30) for start_secs in range(0, 10 * HOUR, HOUR)]
