"""What `info` says of each kind of output."""

import json
import shutil
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.evaluation.fold_scores import write_folds
from ser_batch.inference.results import parts_folder
from ser_batch.models.bundles import shipped_bundle
from ser_batch.records.folder import RecordFolder
from tests.folding import LABELS, made_predictions


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


def test_a_cross_validation(tmp_path: Path, capfd) -> None:
    write_folds(tmp_path, made_predictions(), LABELS, "leave one speaker out", {})
    assert info(tmp_path, capfd).startswith("leave one speaker out: ")


def test_an_evaluation(tmp_path: Path, kept_records: RecordFolder, capfd) -> None:
    identity = {"model": "a" * 64, "records": "b" * 64, "split": "test", "uar": 0.5, "wa": 0.25, "recordings": 4}
    (tmp_path / "scores.json").write_text(json.dumps(identity))
    output = info(tmp_path, capfd)
    assert output.startswith(f"evaluation {tmp_path}: split test, 4 recordings, UAR 0.500, WA 0.250\n")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ("nothing", "no such file or folder"),
        ("folds", "an unfinished cross-validation; run its command again"),
        ("journal", "an unfinished prediction table; run its infer command again"),
        ("manifest", "is damaged (its columns are not those of such a table)"),
        ("text", "is no prediction table"),
        ("bytes", "is no prediction table (not a text)"),
    ],
)
def test_what_is_unfinished_or_damaged_is_said(
    tmp_path: Path, kept_records: RecordFolder, capfd, made: str, says: str
) -> None:
    path = tmp_path / "output"
    if made == "folds":
        (path / "folds").mkdir(parents=True)
    elif made == "journal":
        parts_folder(path).mkdir()
    elif made == "manifest":
        shutil.copytree(kept_records.path, path)
        (path / "manifest.csv").write_text("a,b\n1,2,3\n")
    elif made == "text":
        path.write_text("text")
    elif made == "bytes":
        path.write_bytes(b"RIFF\xff\xfe")
    assert main(["info", str(path)]) == 1
    output = capfd.readouterr().err
    assert says in output
    assert output.count("\n") == 1


def test_anything_else_is_one_line(tmp_path: Path, capfd) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert "no record folder, bundle, prediction table, evaluation or cross-validation" in capfd.readouterr().err
