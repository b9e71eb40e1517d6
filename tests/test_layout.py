"""The order of the wings, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

import ser_batch

PACKAGE = Path(ser_batch.__file__).parent
# From the top down; imports run down only.
WINGS = [
    "cli",
    "notebooks",
    "api",
    "events",
    "reports",
    "evaluation",
    "inference",
    "training",
    "models",
    "records",
    "audio",
    "corpus",
    "storage",
    "runtime",
]
GROUND = {"errors", "formatting"}
# What the stages may use of `runtime`; all else of it, engines and signals, is for the command line.
FOR_STAGES = {"engine", "process", "resources"}


def imported_modules(path: Path) -> set[str]:
    """The modules of ``ser_batch`` that a module imports, anywhere in it."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "ser_batch":
            modules |= {node.module} if node.module.count(".") > 1 or node.module in TOP else set()
            if node.module not in TOP and node.module.count(".") < 2:
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names if alias.name.startswith("ser_batch.")}
    return modules


TOP = {f"ser_batch.{name}" for name in GROUND}


def modules() -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if wing_of(path) not in {"__init__", "__main__"})


def wing_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def may_import(wing: str, other: str) -> bool:
    if other in GROUND or other == wing:
        return True
    if wing in GROUND or {wing, other} == {"inference", "training"}:
        return False
    return WINGS.index(other) > WINGS.index(wing)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_down(path: Path) -> None:
    name, wing = str(path.relative_to(PACKAGE)), wing_of(path)
    for module in imported_modules(path):
        if module != "ser_batch.__version__":
            assert may_import(wing, module.split(".")[1]), f"{name} imports {module}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, node.name


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_stages_import_no_engine_and_no_signals(path: Path) -> None:
    name, wing = str(path.relative_to(PACKAGE)), wing_of(path)
    if wing in {"cli", "api", "runtime", *GROUND}:
        return
    used = {module.split(".")[2] for module in imported_modules(path) if module.startswith("ser_batch.runtime.")}
    assert used <= FOR_STAGES, name


def test_every_module_stands_in_a_known_wing() -> None:
    assert {wing_of(path) for path in modules()} == set(WINGS) | GROUND


def test_the_tools_are_not_imported_by_the_package() -> None:
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in {"tools", "tests"} for name in names), path
