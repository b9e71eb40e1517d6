"""Records in several shards."""

from pathlib import Path

import pytest

from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.records.build import build_records
from ser_batch.records.folder import RecordFolder
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.runtime.local import LocalEngine
from tests.frontends import KEPT


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory, emodb_sample: Path) -> RecordFolder:
    """Fourteen examples of different lengths, in several shards."""
    options = BuildOptions(KEPT, SplitPlan(), num_shards=4)
    plan = plan_build(label_recordings(list_source(str(emodb_sample))), options)
    with LocalEngine(2) as engine:
        return build_records(plan, tmp_path_factory.mktemp("datasets") / "records", engine).records
