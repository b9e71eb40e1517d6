import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ser_batch.models.calibration import apply_temperature, distance_temperature, fit_temperature


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def made(n: int, n_labels: int = 7) -> tuple[np.ndarray, np.ndarray]:
    """Logits, and truths drawn from their softmax: calibrated at temperature 1."""
    chance = np.random.default_rng(3)
    logits = chance.normal(0, 2, (n, n_labels))
    truth = (softmax(logits).cumsum(axis=1) > chance.random((n, 1))).argmax(axis=1)
    return logits, truth


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_a_known_temperature_is_found(temperature: float) -> None:
    logits, truth = made(20_000)
    assert fit_temperature(softmax(logits * temperature), truth) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("n_certain_mistakes", [0, 1, 5])
def test_it_has_the_least_loss_of_a_fine_grid(n_certain_mistakes: int) -> None:
    logits, truth = made(60)
    given_out = softmax(3 * logits)
    given_out[:n_certain_mistakes] = np.eye(7)[(truth[:n_certain_mistakes] + 1) % 7]

    def loss(temperature: float) -> float:
        scaled = softmax(np.log(given_out.clip(1.2e-38)) / temperature)[np.arange(60), truth]
        return -np.log(scaled.clip(1e-300)).mean()

    fitted = fit_temperature(given_out, truth)
    assert fitted is not None
    assert loss(fitted) <= min(map(loss, np.geomspace(0.05, 20, 2000))) + 1e-6


def test_no_temperature_without_recordings() -> None:
    assert fit_temperature(np.zeros((0, 7)), np.zeros(0, dtype=int)) is None


def test_no_temperature_where_all_are_predicted_correctly() -> None:
    assert fit_temperature([[0.6, 0.4], [0.1, 0.9]], [0, 1]) is None


def test_all_wrong_gives_the_highest_temperature() -> None:
    assert fit_temperature([[0.6, 0.4], [0.1, 0.9]], [1, 0]) == pytest.approx(20, rel=1e-3)


def test_neither_zeros_nor_the_cold_break_it() -> None:
    assert apply_temperature([[1.0, 0.0]], 20.0) == pytest.approx(np.array([[0.987, 0.013]]), abs=1e-3)
    assert apply_temperature([[0.3, 0.3, 0.4]], 1e-4).tolist() == [[0.0, 0.0, 1.0]]


def test_one_changes_nothing() -> None:
    probabilities = np.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]], dtype=np.float32)
    same = apply_temperature(probabilities, 1.0)
    assert same.dtype == np.float64
    assert (same == probabilities).all()


def test_two_is_the_square_root() -> None:
    assert apply_temperature([[0.64, 0.36]], 2.0) == pytest.approx(np.array([[0.8, 0.6]]) / 1.4)


def test_each_row_may_have_its_own() -> None:
    rows = np.array([[0.64, 0.36]] * 2)
    assert apply_temperature(rows, np.array([1.0, 2.0])) == pytest.approx(np.array([[0.64, 0.36], [4 / 7, 3 / 7]]))


def test_it_grows_with_the_distance_and_never_sharpens() -> None:
    found = distance_temperature(np.log([1.0, 2.0, 4.0]))
    assert found == pytest.approx([1.0, found[1], found[1] ** 2])
    assert found[1] > 1.5


ROWS = st.lists(
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3).filter(lambda row: sum(row) > 1e-3),
    min_size=1,
    max_size=20,
)


@given(rows=ROWS, temperature=st.floats(0.05, 20))
def test_rows_sum_to_one_and_no_prediction_changes(rows: list[list[float]], temperature: float) -> None:
    weights = np.array(rows)
    probabilities = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    scaled = apply_temperature(probabilities, temperature)
    assert scaled.sum(axis=1) == pytest.approx(1)
    assert (scaled >= 0).all()
    assert (scaled.argmax(axis=1) == probabilities.argmax(axis=1)).all()


def test_a_temperature_of_few_speakers_is_nearer_to_1() -> None:
    dice = np.random.default_rng(0)
    truth, logits = dice.integers(0, 3, 400), dice.normal(size=(400, 3))
    logits[np.arange(400), truth] += 1.0
    probabilities = softmax(3 * logits)
    whole = fit_temperature(probabilities, truth)
    assert whole is not None
    assert whole > 2
    for n_speakers, share in ((1, 1 / 4), (3, 1 / 2), (9, 3 / 4)):
        fitted = fit_temperature(probabilities, truth, [f"{at % n_speakers:02d}" for at in range(400)])
        assert fitted == pytest.approx(whole**share)
    assert fit_temperature(probabilities, truth, ["", *["one"] * 399]) == whole
