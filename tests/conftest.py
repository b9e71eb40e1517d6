"""What tests of several wings share: real speech, made audio, and records built once."""

import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile

from ser_batch.audio.frontends import FrontEnd
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.records.build import build_records
from ser_batch.records.folder import RecordFolder
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.runtime.local import LocalEngine
from tests.counting import network as network
from tests.frontends import KEPT, TRUNCATED

# A slow machine is not a failure.
hypothesis.settings.register_profile("ser-batch", deadline=None)
hypothesis.settings.load_profile("ser-batch")

EMODB_SAMPLE = Path(__file__).parent / "data" / "emodb"


@pytest.fixture(scope="session")
def emodb_sample() -> Path:
    """A folder of 14 EmoDB recordings, two of each of its 7 emotions, by 10 speakers."""
    return EMODB_SAMPLE


@pytest.fixture(scope="session")
def emodb() -> Path:
    """The whole corpus, 535 files; tests that need it skip where it is not."""
    place = os.environ.get("SER_BATCH_EMODB")
    if not place:
        pytest.skip("set SER_BATCH_EMODB to the wav folder of EmoDB (535 files) to run this")
    return Path(place)


@pytest.fixture(scope="session")
def kept_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """Records of the sample, each log-mel as long as its recording, split by speaker."""
    return build_sample(emodb_sample, tmp_path_factory.mktemp("records") / "kept", KEPT)


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """The sample, 32 bands x 47 frames, split by speaker."""
    small = TRUNCATED.replace(hop_length=1024, n_mels=32)
    return build_sample(emodb_sample, tmp_path_factory.mktemp("records") / "small", small)


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that the first of several test processes to ask for it makes for all."""
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with open(shared / f".{name}.lock", "wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = shared / f".{name}.done"
        if not done.exists():
            (shared / name).mkdir()
            make(shared / name)
            done.touch()
    return shared / name


def mount(*arguments: str) -> None:
    if os.geteuid() or not shutil.which("mount"):
        pytest.skip("needs root and mount(8), for a small disk of its own")
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting is not permitted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, free_kib: int) -> Path:
    """Leave only so much room; deleting the file that is returned makes room again."""
    stat = os.statvfs(disk)
    (disk / "ballast").write_bytes(bytes(stat.f_bavail * stat.f_bsize - free_kib * 1024))
    return disk / "ballast"


def build_sample(source: Path, out: Path, front_end: FrontEnd, split: SplitPlan | None = None) -> RecordFolder:
    plan = plan_build(label_recordings(list_source(str(source))), BuildOptions(front_end, split or SplitPlan()))
    with LocalEngine(2) as engine:
        return build_records(plan, out, engine).records


def write_tone(path: Path, secs: float = 1.0, rate_hz: int = 16_000, channels: int = 1, level: float = 0.5) -> Path:
    """Write a WAV of a 440 Hz tone; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = level * np.sin(2 * np.pi * 440 * np.arange(round(secs * rate_hz)) / rate_hz)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1).astype(np.float32), rate_hz)
    return path
