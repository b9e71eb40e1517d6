"""bundle.json: what is wrong with it is one line."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_batch.audio.logmels import log_mel
from ser_batch.errors import BundleError
from ser_batch.models.bundles import DESCRIPTION, MODEL, open_bundle, shipped_bundle
from ser_batch.models.normalisation import identity_scale


def test_the_shipped_bundle_is_the_published_one() -> None:
    assert shipped_bundle().fingerprint == "8fae5a58895f0986e493b95dbfdf7f59ea110d0b37163c81f5b462f664f3a8f0"
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


def test_keras_opens_the_network_without_this_package(emodb_sample: Path, tmp_path: Path) -> None:
    bundle = shipped_bundle()
    samples, rate_hz = soundfile.read(emodb_sample / "03a01Wa.wav", dtype="float32")
    one = log_mel(samples, rate_hz, bundle.front_end)
    reference = bundle.load_arrays().head.reference
    np.savez(tmp_path / "inputs.npz", log_mel=one[None], scale=identity_scale(reference)[None])
    code = (
        "import sys, keras, numpy as np\n"
        "inputs = np.load(sys.argv[2])\n"
        "network = keras.models.load_model(sys.argv[1], safe_mode=True)\n"
        "print(*network.predict([inputs['log_mel'], inputs['scale']], verbose=0)[0].tolist())\n"
        "assert not any(name.split('.')[0] == 'ser_batch' for name in sys.modules)\n"
    )
    arguments = [sys.executable, "-c", code, str(bundle.path / MODEL), str(tmp_path / "inputs.npz")]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, cwd=tmp_path, check=True)
    head = bundle.load_arrays().head
    expected = head.probabilities(head.features(bundle.load_encoder()(one)[None]))[0]
    np.testing.assert_allclose([float(word) for word in done.stdout.split()], expected, atol=1e-4)
