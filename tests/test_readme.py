"""README and docs: their commands run, their links lead somewhere, and all commands and options are in them."""

import importlib
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ser_batch import errors
from ser_batch.cli.app import app, main
from ser_batch.models.bundles import shipped_bundle
from ser_batch.runtime.local import AUDIO_WORKER_BYTES
from tools.make_cli_docs import cli_page
from tools.make_troubleshooting import troubleshooting_page

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def shell_lines(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line]


def test_every_command_and_option_is_documented() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert page == cli_page(), "run python tools/make_cli_docs.py"
    group: Any = typer.main.get_command(app)
    sections = dict(re.findall(r"^## ([a-z-]+)\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL))
    rows = re.findall(r"^\| `([a-z-]+)", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(rows) == sorted(sections) == sorted(group.commands)
    for name, command in group.commands.items():
        for parameter in command.params:
            if "--help" not in parameter.opts and parameter.param_type_name == "option":
                assert re.search(rf"{max(parameter.opts, key=len)}[ `]", sections[name]), (name, parameter.opts)


def test_every_error_is_explained() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert page == troubleshooting_page(), "run python tools/make_troubleshooting.py"
    for name in vars(errors):
        if name.endswith("Error") and name != "SerBatchError":
            assert f"\n## {name}\n" in page
    assert "| is empty (0 bytes) | play the file;" in page


def test_their_commands_run(tmp_path: Path, emodb_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(emodb_sample, tmp_path / "recordings")
    shutil.copytree(emodb_sample, tmp_path / "calls")
    lines = [line for page in (README, *PAGES[1:]) for line in shell_lines(page)]
    assert [line[1] for line in shell_lines(README)] == ["infer", "report", "build-records", "train", "evaluate"]
    assert len(lines) > 8
    for program, *arguments in lines:
        assert program == "ser-batch"
        few = ["--epochs", "1"] if arguments[0] == "train" else []
        assert main([*arguments, *few]) == 0, arguments
    assert len((tmp_path / "preds.csv").read_text().splitlines()) == 15
    assert {"report.html", "records.html", "model.html", "evaluation.html"} <= {
        path.name for path in tmp_path.iterdir()
    }


@pytest.mark.slow
def test_the_python_of_the_docs_runs(tmp_path: Path, emodb_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(emodb_sample, tmp_path / "calls")
    shutil.copy(emodb_sample / "03a01Fa.wav", tmp_path / "calls" / "one.wav")
    for command in (
        ["infer", "calls", "-o", "preds.csv"],
        ["build-records", str(emodb_sample), "-o", "tfrecords/mine"],
        ["train", "tfrecords/mine", "-o", "models/mine", "--recipe", "functionals", "--epochs", "2"],
    ):
        assert main([*command, "-q"]) == 0
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    ]
    assert blocks
    for block in blocks:
        exec(compile(block, "docs", "exec"), {})
    assert (tmp_path / "validation" / "mine" / "predictions.csv").exists()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert link.startswith("https://") or (page.parent / link).exists(), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_nothing_is_left_to_fill_in(page: Path) -> None:
    assert not re.findall(r"[A-Z]+_TABLE|TODO|TBD", page.read_text(encoding="utf-8"))


def test_the_kubernetes_manifest_is_complete() -> None:
    claim, cluster = yaml.safe_load_all((ROOT / "docs" / "kuberay.yaml").read_text(encoding="utf-8"))
    spec = cluster["spec"]
    pods = [spec["headGroupSpec"]["template"]["spec"], spec["workerGroupSpecs"][0]["template"]["spec"]]
    for pod in pods:
        (container,) = pod["containers"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
        assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
    worker = pods[1]["containers"][0]["resources"]["limits"]
    assert int(worker["memory"].removesuffix("Gi")) << 30 >= AUDIO_WORKER_BYTES * int(worker["cpu"])
    pinned = re.search(r"^ray==(.*?) ", (ROOT / "requirements-dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned
    assert spec["rayVersion"] == pinned[1]


def test_the_functions_it_names_exist() -> None:
    names = re.findall(r"`(ser_batch(?:\.\w+)+)`", (ROOT / "docs" / "python.md").read_text(encoding="utf-8"))
    assert len(names) >= 6
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_card_is_of_the_shipped_model() -> None:
    bundle = shipped_bundle()
    card = (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{bundle.short_fingerprint}`" in card
    assert all(f"| {label} |" in card for label in bundle.labels)
