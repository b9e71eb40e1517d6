"""From recordings to predictions: windows, long files, and files that end their worker."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_batch.audio.windows import LogMelWindows
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import Recording
from ser_batch.corpus.table import recordings as recordings_of
from ser_batch.errors import BundleError
from ser_batch.inference.embeddings import Block, EmbeddingOptions, read_part, write_block
from ser_batch.inference.predictions import Classifier
from ser_batch.models.bundles import shipped_bundle
from ser_batch.runtime.local import LocalEngine
from tests.conftest import write_tone
from tests.counting import CountingNetwork
from tests.deadly import DeadlyEngine, HangingEngine
from tests.frontends import WINDOWED
from tests.predicting import results_of, rows_of
from tests.records.test_long_files import write_long

NETWORK = partial(CountingNetwork, Path(os.devnull))
OPTIONS = EmbeddingOptions(NETWORK, WINDOWED)
MINUTE = 60


@pytest.fixture(scope="module")
def engine():
    with LocalEngine(2) as engine:
        yield engine


def write_speech(path: Path, secs: float) -> Path:
    """Noise whose level changes, so that no two windows are alike."""
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.random(round(secs) + 1), 16_000)[: round(16_000 * secs)]
    soundfile.write(path, levels * rng.normal(0, 0.1, len(levels)), 16_000)
    return path


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> list[Recording]:
    """Long and short recordings in turn: 5 minutes are several parts, 6 seconds are 3 windows."""
    folder = tmp_path_factory.mktemp("mixed")
    for number, secs in enumerate([6, 250, 1, 6, 200, 6.5, 200, 3, 3.01, 1, 400]):
        write_speech(folder / f"{number:02d}.wav", secs)
    (folder / "03broken.wav").write_bytes(b"x")
    return list(recordings_of(list_source(str(folder)).recordings))


def directly(recording: Recording) -> tuple[list[tuple[float, float]], np.ndarray]:
    windows = list(LogMelWindows(recording, WINDOWED))
    figures = Classifier.of(shipped_bundle())(np.stack([NETWORK()(window.log_mel) for window in windows]))
    return [(window.start_secs, window.end_secs) for window in windows], figures


def test_every_window_has_a_row(mixed, engine) -> None:
    rows = rows_of(mixed, engine, OPTIONS, windows=True)
    assert [*dict.fromkeys(row.file for row in rows)] == [recording.file for recording in mixed]
    for recording in mixed:
        of_file = [row for row in rows if row.file == recording.file]
        if recording.file == "03broken.wav":
            assert [bool(row.error) for row in of_file] == [True]
            continue
        spans, figures = directly(recording)
        probabilities = Classifier.of(shipped_bundle()).calibrated(figures)[:, :-1]
        assert [(row.start_secs, row.end_secs) for row in of_file] == spans
        np.testing.assert_allclose([row.probabilities for row in of_file], probabilities, atol=1e-7)
        assert {row.duration_secs for row in of_file} == {spans[-1][1]}


def test_a_recording_has_the_mean_of_its_windows(mixed, engine) -> None:
    rows = rows_of(mixed, engine, OPTIONS)
    assert [row.file for row in rows] == [recording.file for recording in mixed]
    for recording, row in zip(mixed, rows, strict=True):
        if not row.error:
            spans, figures = directly(recording)
            mean = Classifier.of(shipped_bundle()).calibrated(figures.mean(axis=0, keepdims=True))[0, :-1]
            assert (row.start_secs, row.end_secs) == (0.0, spans[-1][1])
            np.testing.assert_allclose(row.probabilities, mean, atol=1e-7)


@pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])
def test_workers_change_nothing(mixed, windows: bool) -> None:
    by_workers = []
    for workers in (1, 3):
        with LocalEngine(workers) as engine:
            by_workers.append(rows_of(mixed, engine, OPTIONS, windows))
    assert by_workers[0] == by_workers[1]


def test_windows_of_a_recording_that_is_refused_at_its_end_are_void(tmp_path: Path, engine) -> None:
    long, _ = soundfile.read(write_speech(tmp_path / "1.wav", 300), dtype="float32")
    long[-10] = np.nan
    soundfile.write(tmp_path / "1.wav", long, 16_000, subtype="FLOAT")
    for name in ("0.wav", "2.wav"):
        write_tone(tmp_path / name)
    rows = rows_of(list(recordings_of(list_source(str(tmp_path)).recordings)), engine, OPTIONS, windows=True)
    assert [row.file for row in rows] == ["0.wav", "1.wav", "2.wav"]
    assert rows[1].error == "has a sample that is not finite, at 299.999 s"
    assert not rows[0].error
    assert not rows[2].error


def test_a_worker_that_waits_for_work_is_not_taken_for_one_that_hangs(mixed, tmp_path: Path) -> None:
    write_block(Block((mixed[1],), (bytes(16),), str(tmp_path / "1.parquet")), OPTIONS)
    (result,) = read_part(tmp_path / "1.parquet")
    assert len(result.times) == len(result.embeddings) == 166
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


# --- workers that end


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
@pytest.mark.parametrize("windows", [False, True], ids=["whole", "windows"])
def test_a_file_that_ends_its_worker_is_a_row(mixed, engine, signum, windows: bool) -> None:
    undisturbed = rows_of(mixed, engine, OPTIONS, windows)
    rows = rows_of(mixed, DeadlyEngine(engine, "04.wav", signum), OPTIONS, windows)
    assert [row for row in rows if row.file != "04.wav"] == [row for row in undisturbed if row.file != "04.wav"]
    (error,) = [row.error for row in rows if row.file == "04.wav"]
    assert signal.Signals(signum).name in error


@dataclass(frozen=True)
class DyingNetwork:
    """Ends its process at the hundredth window of a recording."""

    n_windows: list[int] = field(default_factory=list)

    def __call__(self, log_mel: np.ndarray) -> np.ndarray:
        self.n_windows.append(1)
        if len(self.n_windows) == 100:
            os.abort()
        return NETWORK()(log_mel)


def test_a_worker_that_dies_within_a_long_recording(mixed, engine) -> None:
    """The recordings of 250, 200, 200 and 400 seconds have a hundred windows or more; so has a task of short ones."""
    undisturbed = rows_of(mixed, engine, OPTIONS, windows=True)
    rows = rows_of(mixed, engine, EmbeddingOptions(DyingNetwork, WINDOWED), windows=True)
    dead = [row.file for row in rows if "SIGABRT" in row.error]
    assert dead == ["01.wav", "04.wav", "06.wav", "10.wav"]
    assert [row for row in rows if row.file not in dead] == [row for row in undisturbed if row.file not in dead]


def test_a_file_that_hangs_its_decoder_is_a_row(mixed, engine) -> None:
    rows = rows_of(mixed, HangingEngine(engine, "04.wav"), OPTIONS)
    assert [row.file for row in rows if row.error] == ["03broken.wav", "04.wav"]
    assert "the worker made no progress" in rows[5].error


def test_many_deadly_files_among_many(tmp_path: Path) -> None:
    for number in range(40):
        write_tone(tmp_path / f"{number:02d}.wav", secs=0.2)
    recordings = list(recordings_of(list_source(str(tmp_path)).recordings))
    with LocalEngine(2) as engine:
        twice = DeadlyEngine(DeadlyEngine(engine, "07.wav", 9), "31.wav", 11)  # type: ignore[arg-type]
        rows = rows_of(recordings, twice, OPTIONS)
    assert [row.file for row in rows] == [recording.file for recording in recordings]
    assert [row.file for row in rows if row.error] == ["07.wav", "31.wav"]


def test_a_bundle_that_was_replaced_meanwhile_is_refused(mixed, engine) -> None:
    other = replace(shipped_bundle(), fingerprint="0" * 64)
    with pytest.raises(BundleError, match=r"was replaced during the run; run the same command again"):
        results_of(mixed[:1], engine, EmbeddingOptions.of(other))


# --- memory

MEMORY_OF_INFER = """
import resource, sys
from dataclasses import replace
from pathlib import Path
from ser_batch.inference.infer import InferOptions, infer
from ser_batch.corpus.sources import list_source
from ser_batch.runtime.local import LocalEngine
from ser_batch.models.bundles import Bundle, shipped_bundle
from ser_batch.runtime.process import keep_freed_memory
from ser_batch.inference.embeddings import EmbeddingOptions
from tests.frontends import WINDOWED
from tests.predicting import results_of
from tests.counting import CountingNetwork

def main():
    keep_freed_memory()
    EmbeddingOptions.of = CountingNetwork(Path("/dev/null")).options
    shipped = shipped_bundle()
    bundle = Bundle(shipped.path, shipped.content.replace(front_end=WINDOWED), "f" * 64)
    with LocalEngine(1) as engine:
        options = InferOptions(windows=True, adapt=sys.argv[3])
        result = infer(list_source(sys.argv[1]), bundle, sys.argv[2], engine, options)
    print(result.summary.rows, *(resource.getrusage(who).ru_maxrss // 1024 for who in (0, -1)))

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("adapt", ["none", pytest.param("voices", marks=pytest.mark.slow)])
def test_an_hour_takes_the_memory_of_ten_minutes(tmp_path: Path, adapt: str) -> None:
    (tmp_path / "measure.py").write_text(MEMORY_OF_INFER)
    peaks = {}
    for minutes in (10, 60):
        audio = write_long(tmp_path / f"{minutes}.wav", minutes * MINUTE)
        command = [sys.executable, tmp_path / "measure.py", audio, tmp_path / f"{minutes}.csv", adapt]
        ended = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert ended.returncode == 0, ended.stderr
        n_rows, *peaks[minutes] = map(int, ended.stdout.split())
        assert n_rows == 40 * minutes - 1
        audio.unlink()
    assert peaks[60][0] - peaks[10][0] < 20  # the caller
    assert peaks[60][1] - peaks[10][1] < 20  # the worker
