"""Small records of real speech that train in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.records.layout import RecordFolder
from tests.conftest import build_sample
from tests.frontends import TRUNCATED


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """The sample, 32 bands x 47 frames, split by speaker."""
    small = replace(TRUNCATED, hop_length=1024, n_mels=32)
    return build_sample(emodb_sample, tmp_path_factory.mktemp("records") / "small", small)
