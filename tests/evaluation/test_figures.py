from pathlib import Path

import numpy as np
import pytest

from ser_batch.evaluation.figures import plot_confusion, plot_reliability
from ser_batch.evaluation.metrics import reliability


def size_of(picture: Path) -> tuple[int, int]:
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = np.frombuffer(data[16:24], ">u4")
    return int(width), int(height)


@pytest.mark.parametrize("n_labels", [1, 7, 60])
def test_pictures_of_many_labels_stay_small(tmp_path: Path, n_labels: int) -> None:
    labels = [f"emotion {at}" for at in range(n_labels)]
    plot_confusion(np.eye(n_labels, dtype=np.int64), labels, "a title " * 20, tmp_path / "one.png")
    assert max(size_of(tmp_path / "one.png")) < 3000


@pytest.mark.parametrize("label", [r"$\foo$", "$^$", "100 $"])
def test_dollar_signs_are_no_formula(tmp_path: Path, label: str) -> None:
    plot_confusion(np.eye(2, dtype=np.int64), [label, "b"], label, tmp_path / "one.png")
    one = reliability([[0.4, 0.6]], [1])
    plot_reliability(one, one, label, tmp_path / "two.png")


def test_a_diagram_of_one_prediction(tmp_path: Path) -> None:
    one = reliability([[0.4, 0.6]], [1])
    plot_reliability(one, one, "title", tmp_path / "one.png")
    assert max(size_of(tmp_path / "one.png")) < 3000
