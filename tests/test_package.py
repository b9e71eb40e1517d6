"""The package as others get it: an sdist, and a wheel made of it, installed elsewhere."""

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ser_batch

ROOT = Path(__file__).parent.parent
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that is built from it, as `make dist` makes them."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def wheel(dist: Path) -> Path:
    (built,) = dist.glob("*.whl")
    return built


def test_twine_finds_nothing_wrong(dist: Path) -> None:
    files = sorted(map(str, dist.iterdir()))
    assert len(files) == 2
    done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_sdist_installs(dist: Path, tmp_path: Path) -> None:
    (sdist,) = dist.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*pip, "--target", str(tmp_path), str(sdist)], check=True)
    assert (tmp_path / "ser_batch" / "shipped" / "bundle.json").exists()
    assert f"ser_batch-{ser_batch.__version__}.dist-info" in {path.name for path in tmp_path.iterdir()}


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


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_the_requirements_are_pinned_with_hashes_and_without_addresses(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert text.count("--hash=sha256:") > 100


def test_both_requirements_have_the_same_versions() -> None:
    run, dev = (
        pinned((ROOT / name).read_text(encoding="utf-8")) for name in ("requirements.txt", "requirements-dev.txt")
    )
    assert run < dev
    assert not {"pytest", "ray"} & {line.partition("==")[0] for line in run}


def pinned(text: str) -> set[str]:
    return {line.partition(" ")[0] for line in text.splitlines() if "==" in line.partition(";")[0]}


def test_hadolint_finds_nothing_wrong_with_the_dockerfile() -> None:
    done = subprocess.run([HADOLINT, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_steps_of_the_dockerfile_give_a_command_that_predicts(tmp_path: Path, emodb_sample: Path) -> None:
    """Its COPY and RUN steps of the first stage, in folders of this machine; then its ENTRYPOINT."""
    build, _, run = (ROOT / "Dockerfile").read_text(encoding="utf-8").partition("\nFROM python:3.11-slim-bookworm\n")
    assert "USER 1000\n" in run
    (tmp_path / "src").mkdir()
    for step in re.findall(r"^(COPY|RUN) ((?:.*\\\n)*.*)", build, flags=re.MULTILINE):
        if step[0] == "COPY":
            *names, target = step[1].split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, tmp_path / "src" / (name if target == "./" else target))
        else:
            script = step[1].replace("/opt/", f"{tmp_path}/opt/").replace("python -m venv", f"{sys.executable} -m venv")
            subprocess.run(["bash", "-ec", script], cwd=tmp_path / "src", check=True, capture_output=True)
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]', run, flags=re.MULTILINE)
    command = [tmp_path / "opt" / "ser-batch" / "bin" / entry, "infer", emodb_sample, "-o", tmp_path / "preds.csv"]
    # A venv made from a virtual environment's Python has that environment's interpreter, but not its packages.
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "preds.csv").read_text().splitlines()) == 15
