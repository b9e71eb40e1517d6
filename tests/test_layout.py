"""The order of the wings, read from the imports themselves."""

import ast
from pathlib import Path

import pytest

import ser_batch

PACKAGE = Path(ser_batch.__file__).parent
FLOORS = ["errors", "audio", "records", "models", "results", "cli"]
# How files are written and messages put, what native code does, what a stop leaves, what a stage asks of an engine:
# every wing may use them, they use none.
GROUND = {"errors", "files", "native", "stops", "tasks", "wording"}
# What the command line alone has: engines to hand to a stage, and what it shows.
ONLY_FOR_CLI = {"engines", "progress"}


def imported_rooms(path: Path) -> set[str]:
    """The first names under ``ser_batch`` that a module imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ser_batch."):
            rooms.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            rooms |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("ser_batch.")}
    return rooms


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path: Path) -> None:
    room = room_of(path)
    imported = imported_rooms(path) - {room}
    if room in {"__main__", "cli"}:
        return
    if room in GROUND | ONLY_FOR_CLI:
        assert imported <= GROUND
        return
    if room == "__init__":
        assert not imported
        return
    below = set(FLOORS[: FLOORS.index(room)]) | GROUND
    assert imported <= below, f"{path} imports upwards: {imported - below}"


def test_every_module_stands_in_a_known_room() -> None:
    rooms = {room_of(path) for path in modules()}
    assert rooms == set(FLOORS) | GROUND | ONLY_FOR_CLI | {"__init__", "__main__"}


def test_the_tools_are_not_imported_by_the_package() -> None:
    for path in modules():
        assert "import tools" not in path.read_text(encoding="utf-8")
        assert "from tools" not in path.read_text(encoding="utf-8")
