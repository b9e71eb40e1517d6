"""What tests of several wings share: real speech, made audio, and records built once."""

import os
from pathlib import Path

import numpy as np
import pytest
import soundfile

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


def write_tone(path: Path, secs: float = 1.0, rate_hz: int = 16_000, channels: int = 1, level: float = 0.5) -> Path:
    """Write a WAV of a 440 Hz tone; its folder is made if absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = level * np.sin(2 * np.pi * 440 * np.arange(round(secs * rate_hz)) / rate_hz)
    soundfile.write(path, np.repeat(tone[:, None], channels, axis=1).astype(np.float32), rate_hz)
    return path
