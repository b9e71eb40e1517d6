"""The package as others get it: a wheel, installed elsewhere."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_the_package_and_its_model(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    shipped = {"model.keras", "bundle.json", "MODEL_CARD.md"}
    assert {f"ser_batch/shipped/{name}" for name in shipped} <= names
    assert "ser_batch/py.typed" in names
    assert not [name for name in names if name.startswith(("tests/", "tools/"))]
    assert wheel.stat().st_size < 8 << 20


def test_it_predicts_where_it_is_installed(wheel: Path, tmp_path: Path, emodb_sample: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True)
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r}); import ser_batch; "
        f"assert ser_batch.__file__.startswith({str(site)!r}), ser_batch.__file__; "
        "from ser_batch.cli.app import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["infer", str(emodb_sample / "03a01Wa.wav"), "-o", "preds.csv", "-j", "1"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "preds.csv").read_text().startswith("file,start,end")


def test_the_requirements_are_pinned_with_hashes_and_without_addresses() -> None:
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert "://" not in text
    assert text.count("--hash=sha256:") > 100
