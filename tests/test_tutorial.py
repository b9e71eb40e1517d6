"""The notebook of the documentation runs as it is."""

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_tutorial_runs(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tests" / "data" / "emodb", tmp_path / "tests" / "data" / "emodb")
    notebook = nbformat.read(ROOT / "docs" / "tutorial.ipynb", as_version=4)
    stored = [kinds(cell) for cell in notebook.cells]
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert [kinds(cell) for cell in notebook.cells] == stored
    results = [output.data["text/plain"] for cell in notebook.cells for output in shown(cell) if "data" in output]
    assert any(line.startswith("<Records build/tutorial/records: 14 examples") for line in results)
    assert any("<CrossValidation build/tutorial/validation: recipe functionals" in line for line in results)
    assert (tmp_path / "build" / "tutorial" / "report.html").stat().st_size > 50_000


def shown(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """The outputs of a cell but for messages."""
    return [output for output in cell.get("outputs", []) if output.output_type != "stream"]


def kinds(cell: nbformat.NotebookNode) -> list[list[str]]:
    return [sorted(output.data) for output in shown(cell)]
