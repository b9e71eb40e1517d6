"""Small records of real speech that train in seconds."""

from dataclasses import replace
from pathlib import Path

import pytest

from ser_batch.audio.corpora import label_recordings
from ser_batch.audio.recordings import list_source
from ser_batch.engines import LocalEngine
from ser_batch.records.builds import build_records
from ser_batch.records.layout import RecordFolder
from ser_batch.records.plans import BuildOptions, plan_build
from ser_batch.records.splits import SplitPlan
from tests.frontends import TRUNCATED

SMALL = replace(TRUNCATED, hop_length=1024, n_mels=32)


@pytest.fixture(scope="session")
def small_records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """The sample, 32 bands x 47 frames, split by speaker."""
    plan = plan_build(label_recordings(list_source(str(emodb_sample))), BuildOptions(SMALL, SplitPlan()))
    with LocalEngine(2) as engine:
        return build_records(plan, tmp_path_factory.mktemp("records") / "small", engine).records
