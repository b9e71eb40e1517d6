"""Small records of real speech that train in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.audio.corpora import label_recordings
from ser_batch.audio.frontend import FrontEnd
from ser_batch.audio.recordings import list_source
from ser_batch.engines import LocalEngine
from ser_batch.records.builds import build_records
from ser_batch.records.layout import RecordFolder
from ser_batch.records.plans import BuildOptions, plan_build
from ser_batch.records.splits import SplitPlan
from tests.frontends import KEPT, TRUNCATED

SMALL = replace(TRUNCATED, hop_length=1024, n_mels=32)
COARSE = replace(KEPT, n_mels=64)  # functionals need 64 bands


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """The sample, 32 bands x 47 frames, split by speaker."""
    return _built(emodb_sample, tmp_path_factory.mktemp("records") / "small", SMALL)


@pytest.fixture(scope="session")
def coarse_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """The sample, 64 bands, each recording at its own length, split by speaker."""
    return _built(emodb_sample, tmp_path_factory.mktemp("records") / "coarse", COARSE)


def _built(source: Path, folder: Path, front_end: FrontEnd) -> RecordFolder:
    plan = plan_build(label_recordings(list_source(str(source))), BuildOptions(front_end, SplitPlan()))
    with LocalEngine(2) as engine:
        return build_records(plan, folder, engine).records
