"""The table of recordings: the same rows, in memory or mapped from temporary files."""

import tempfile
from pathlib import Path

import numpy as np
import pytest

from ser_batch.corpus import table as tables
from ser_batch.corpus.table import Recording, make_table, recordings, selected

# Over several blocks; columns that are empty in some of them, and values that only later blocks have.
ROWS = [
    Recording(
        file=f"{n:05d}.wav",
        path=f"/in/{n:05d}.wav" if n % 7 else f"/elsewhere/{n}.wav",
        label=None if n < 20_000 else f"label {n % 3}",
        speaker=f"s{n // 1000}",
        start_secs=0.0 if n < 40_000 else 1.5,
        end_secs=None if n % 2 else 2.0,
        channel="mean" if n == 49_999 else None,
    )
    for n in range(50_000)
]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_ROWS_IN_MEMORY", 1 << 15)


def test_rows_come_back() -> None:
    assert list(recordings(make_table(ROWS))) == ROWS
    assert list(recordings(make_table([]))) == []


@pytest.mark.usefixtures("small_blocks")
def test_rows_in_temporary_files_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    table = make_table(iter(ROWS))
    assert list(recordings(table)) == ROWS
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    assert mapped
    assert all(line.endswith("(deleted)") for line in mapped)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_blocks")
def test_without_a_temporary_folder_rows_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert list(recordings(make_table(ROWS))) == ROWS


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("rows", [[], [3], [49_999, 0, 33_000, 33_000, 5], list(range(0, 50_000, 7))])
def test_selected_rows_are_in_the_order_asked_for(rows: list[int]) -> None:
    table = make_table(ROWS)
    assert list(recordings(selected(table, np.array(rows, np.int64)))) == [ROWS[row] for row in rows]
