"""What `info` says of each kind of output."""

from pathlib import Path

from ser_batch.cli import main
from ser_batch.models.bundles import shipped_bundle
from ser_batch.results.folds import write_folds
from tests.results.folding import LABELS, made_predictions


def info(path: Path, capfd) -> str:
    assert main(["info", str(path)]) == 0
    return capfd.readouterr().out


def test_a_bundle(capfd) -> None:
    bundle = shipped_bundle()
    said = info(bundle.path, capfd)
    assert "labels: anger, boredom, disgust, fear, happiness, neutral, sadness" in said
    assert "front end: speech (16000 Hz, 192 mel bands, up to 626 frames" in said
    assert f"temperature {bundle.temperature:.3f}" in said
    assert "535 examples, seed 0" in said
    assert bundle.short_fingerprint in said


def test_a_cross_validation(tmp_path: Path, capfd) -> None:
    write_folds(tmp_path, made_predictions(), LABELS, "leave one speaker out", {})
    assert info(tmp_path, capfd).startswith("leave one speaker out: ")


def test_anything_else_is_one_line(tmp_path: Path, capfd) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert "no record folder, bundle, prediction table or cross-validation" in capfd.readouterr().err
