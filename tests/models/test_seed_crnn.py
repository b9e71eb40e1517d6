import numpy as np
import pytest

from ser_batch.errors import TrainingError
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.networks.seed_crnn import seed_crnn
from ser_batch.models.normalisation import Scale

PLAIN = NetworkOptions(network="seed_crnn")


def test_the_seed_network_is_the_published_one() -> None:
    network = seed_crnn((128, 259), 7, PLAIN)
    assert network.count_params() == 1_443_015
    convolutions = [layer for layer in network.layers if layer.name.startswith("conv_")]
    assert [layer.filters for layer in convolutions] == [64, 64, 128, 128]
    assert all(layer.kernel_size == (3, 3) and layer.padding == "same" for layer in convolutions)
    lstm = network.get_layer("lstm")
    assert lstm.input.shape == (None, 16, 8 * 128)
    assert lstm.output.shape == (None, 256)


def test_it_is_as_wide_as_the_labels() -> None:
    assert seed_crnn((128, 259), 8, PLAIN).output_shape == (None, 8)


def test_time_is_the_sequence_axis() -> None:
    network = seed_crnn((128, 259), 7, PLAIN)
    import keras

    until_lstm = keras.Model(network.input, network.get_layer("lstm").input)
    base = np.zeros((1, 128, 259), np.float32)
    late = base.copy()
    late[:, :, 200:] = 1.0
    changed = np.abs(until_lstm(base) - until_lstm(late))[0].max(axis=1) > 0
    assert not changed[: 200 // 16 - 1].any()
    assert changed[200 // 16 + 1 :].all()


def test_the_input_scale_is_inside() -> None:
    mean, variance = np.linspace(-60, -20, 128).astype("f4"), np.full(128, 81, "f4")
    network = seed_crnn((128, 259), 7, PLAIN, Scale(mean, variance))
    scaled = network.get_layer("standardise")(np.broadcast_to(mean[:, None] + 9, (1, 128, 259)))
    np.testing.assert_allclose(np.asarray(scaled), 1.0, atol=1e-5)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_dropout_is_only_there_where_the_options_have_it(dropout: float) -> None:
    network = seed_crnn((32, 64), 3, PLAIN.replace(dropout=dropout))
    assert len([layer for layer in network.layers if layer.name.startswith("drop_")]) == (2 if dropout else 0)


def test_the_seed_network_refuses_log_mels_of_any_length() -> None:
    with pytest.raises(TrainingError, match=r"seed_crnn takes log-mels of one length.*--front-end seed"):
        seed_crnn((64, None), 7, PLAIN)
