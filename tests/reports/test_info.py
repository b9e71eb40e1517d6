"""What `info` prints for each kind of output."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.evaluation.fold_scores import write_folds
from ser_batch.inference.results import parts_folder
from ser_batch.models.bundles import shipped_bundle
from ser_batch.records.folder import RecordFolder
from ser_batch.records.manifest import part_path
from tests.conftest import write_tone
from tests.folding import LABELS, made_predictions
from tests.manifests import write_table


def info(path: Path, capfd) -> str:
    assert main(["info", str(path)]) == 0
    return capfd.readouterr().out


def test_a_bundle(capfd) -> None:
    bundle = shipped_bundle()
    output = info(bundle.path, capfd)
    assert "labels: anger, boredom, disgust, fear, happiness, neutral, sadness" in output
    assert "front end: speech (16000 Hz, 192 mel bands, up to 626 frames" in output
    assert f"temperature {bundle.temperature:.3f}, fitted on 535 examples" in output
    assert "535 examples, seed 0" in output
    assert bundle.short_fingerprint in output
    assert info(Path("shipped"), capfd) == output


def test_a_cross_validation(tmp_path: Path, capfd) -> None:
    write_folds(tmp_path, made_predictions(), LABELS, "leave one speaker out", {})
    assert info(tmp_path, capfd).startswith("leave one speaker out: ")


def test_an_evaluation(tmp_path: Path, kept_records: RecordFolder, capfd) -> None:
    identity = {"model": "a" * 64, "records": "b" * 64, "split": "test", "uar": 0.5, "wa": 0.25, "recordings": 4}
    (tmp_path / "scores.json").write_text(json.dumps(identity))
    output = info(tmp_path, capfd)
    assert output.startswith(f"evaluation {tmp_path}: split test, 4 recordings, UAR 0.500, WA 0.250\n")


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("nothing", "no such file or folder"),
        ("folds", "an unfinished cross-validation; run its command again"),
        ("journal", "an unfinished prediction table; run its infer command again"),
        ("manifest", "its columns are a, b, not file, start, end"),
        ("text", "is not a prediction table"),
        ("bytes", "is not a prediction table (not a text file)"),
    ],
)
def test_what_is_unfinished_or_damaged_is_reported(
    tmp_path: Path, kept_records: RecordFolder, capfd, made: str, expected: str
) -> None:
    path = tmp_path / "output"
    if made == "folds":
        (path / "folds").mkdir(parents=True)
    elif made == "journal":
        parts_folder(path).mkdir()
    elif made == "manifest":
        shutil.copytree(kept_records.path, path)
        write_table(part_path(path, kept_records.shards()[0].name), {"a": [1], "b": [2]})
    elif made == "text":
        path.write_text("text")
    elif made == "bytes":
        path.write_bytes(b"RIFF\xff\xfe")
    assert main(["info", str(path)]) == 1
    output = capfd.readouterr().err
    assert expected in output
    assert output.count("\n") == 1


def test_anything_else_is_one_line(tmp_path: Path, capfd) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert "is not a record folder, bundle, prediction table, evaluation or cross-validation" in capfd.readouterr().err


def test_the_manifest_and_the_errors_are_printed_as_csv(tmp_path: Path, emodb_sample: Path, capfd) -> None:
    source = Path(shutil.copytree(emodb_sample, tmp_path / "in"))
    for name in ("notes.wav", "03b01Wa.wav"):
        (source / name).write_bytes(b"")
    assert main(["build-records", str(source), "-o", str(tmp_path / "r"), "--num-shards", "1", "-q"]) == 3
    capfd.readouterr()
    assert main(["info", str(tmp_path / "r"), "--manifest"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "file,start,end,label,speaker,split,shard,index,duration,sha256"
    assert len(lines) == 15
    (anger,) = [line for line in lines if line.startswith("03a01Wa.wav")]
    assert anger.startswith("03a01Wa.wav,0.0,1.877813,anger,03,train,recordings-train.tfrecord-00000-of-00001,")
    assert main(["info", str(tmp_path / "r"), "--errors"]) == 0
    assert capfd.readouterr().out.splitlines() == [
        "file,start,end,stage,reason,sha256",
        "notes.wav,0.0,,label,does not match the file names of EmoDB,",
        f"03b01Wa.wav,0.0,,decode,is empty (0 bytes),{hashlib.sha256().hexdigest()}",
    ]
    assert main(["info", str(tmp_path / "r"), "--errors", "--manifest"]) == 2


def test_why_nothing_could_be_used_is_printed_of_an_unfinished_folder(tmp_path: Path, capfd) -> None:
    for name in ("03b01Wa.wav", "08b01La.wav"):
        write_tone(tmp_path / "in" / name, level=0.0)
    assert main(["build-records", str(tmp_path / "in"), "-o", str(tmp_path / "r"), "-q"]) == 1
    assert f"run ser-batch info {tmp_path / 'r'} --errors to list the reasons" in capfd.readouterr().err
    assert main(["info", str(tmp_path / "r"), "--errors"]) == 0
    assert capfd.readouterr().out.count("is digital silence: every sample is zero") == 2
