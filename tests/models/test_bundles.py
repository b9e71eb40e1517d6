"""bundle.json: what is wrong with it is one line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ser_batch.errors import BundleError
from ser_batch.models.bundles import DESCRIPTION, open_bundle, shipped_bundle


def test_the_shipped_bundle_is_the_published_one() -> None:
    assert shipped_bundle().fingerprint == "b3efdac0a4e1d3f4dc34044dca607f1b1be2c02f19e9628dba5dd6b1fbf64342"
    assert shipped_bundle().load_network()  # its weights are those of the fingerprint


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"labels": None}, "labels = None: should be a valid array"),
        ({"front_end": {"n_mels": 3}}, "front_end.rate_hz: is missing"),
        ({"calibration": {"temperature": "hot"}}, "calibration.temperature = 'hot': should be a valid number"),
        (
            {"calibration": {"temprature": 1.0, "temperature": 1.0}},
            "calibration.temprature: no such value; did you mean",
        ),
        ({"speaker_normalised": "yes"}, "speaker_normalised = 'yes': should be a valid boolean"),
        ({"kind": "records"}, "kind = 'records': should be 'bundle'"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    content = json.loads((shipped_bundle().path / DESCRIPTION).read_text())
    (tmp_path / DESCRIPTION).write_text(json.dumps(content | changes))
    with pytest.raises(BundleError) as caught:
        open_bundle(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / DESCRIPTION}: {problem}")
    assert message.endswith("; copy the bundle again")
    assert "\n" not in message


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"kind": "bundle"}'])
def test_a_damaged_description_is_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / DESCRIPTION).write_bytes(content)
    with pytest.raises(BundleError, match=rf"^{tmp_path / DESCRIPTION}: .*; copy the bundle again$"):
        open_bundle(tmp_path)


def test_a_copy_of_a_bundle_is_the_same_bundle(tmp_path: Path) -> None:
    shutil.copytree(shipped_bundle().path, tmp_path / "copy")
    copy = open_bundle(tmp_path / "copy")
    assert (copy.content, copy.fingerprint) == (shipped_bundle().content, shipped_bundle().fingerprint)
