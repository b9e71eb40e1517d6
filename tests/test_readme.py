"""The README cannot rot: its commands run, and every command and option stands in it."""

import importlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import typer

from ser_batch.cli.app import app, main
from ser_batch.models.bundles import shipped_bundle
from ser_batch.training.recipes import RECIPES

README = Path(__file__).parent.parent / "README.md"


def shell_lines() -> list[list[str]]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if line]


def test_every_command_and_option_is_documented() -> None:
    group = typer.main.get_command(app)
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", README.read_text(encoding="utf-8"), flags=re.MULTILINE))
    for name, command in group.commands.items():
        options = [option for parameter in command.params for option in parameter.opts if option.startswith("--")]
        assert re.findall(r"`(--[a-z-]+)`", rows.get(name, "")) == [o for o in options if o != "--help"], name


def test_its_commands_run(tmp_path: Path, emodb_sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(emodb_sample, tmp_path / "recordings")
    shutil.copytree(emodb_sample, tmp_path / "calls")
    front_end = RECIPES["default"].front_end
    lines = shell_lines()
    assert [line[1] for line in lines] == ["build-records", "train", "evaluate", "infer"]
    for program, *arguments in lines:
        assert program == "ser-batch"
        quick = ["--front-end", front_end] if arguments[0] == "build-records" else []
        few = ["--epochs", "1"] if arguments[0] == "train" else []
        assert main([*arguments, *quick, *few]) == 0
    assert len((tmp_path / "preds.csv").read_text().splitlines()) == 15


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"[A-Z]+_TABLE|TODO|TBD", README.read_text(encoding="utf-8"))


def test_the_functions_it_names_exist() -> None:
    names = re.findall(r"`(ser_batch(?:\.\w+)+)`", README.read_text(encoding="utf-8"))
    assert len(names) >= 6
    for name in names:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name


def test_the_card_is_of_the_shipped_model() -> None:
    bundle = shipped_bundle()
    card = (bundle.path / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"`{bundle.short_fingerprint}`" in card
    assert all(f"| {label} |" in card for label in bundle.labels)
