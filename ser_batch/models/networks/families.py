"""Networks from a recipe's options: the whole network, its part without weights, and its trainable part."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from ser_batch.audio.frontends import FrontEnd
from ser_batch.models.heads import SMALLEST_VARIANCE, Head
from ser_batch.models.networks.crnn import crnn
from ser_batch.models.networks.functionals import functional_extractor, functional_head, functional_network
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.networks.seed_crnn import seed_crnn
from ser_batch.models.normalisation import Scale


def build_network(
    front_end: FrontEnd,
    n_labels: int,
    options: NetworkOptions,
    scale: Scale | None,
    beside: keras.Model | None = None,
) -> keras.Model:
    """Build a network with initial weights.

    Args:
        front_end: of the input log-mels.
        n_labels: width of the softmax.
        options: the network's family and settings.
        scale: statistics of the training examples, for standardisation; None: no standardisation.
        beside: with ``functionals``: the encoder of a CRNN beside them.

    Raises:
        TrainingError: the network and the front end do not fit.
    """
    if options.network == "seed_crnn":
        return seed_crnn(front_end.shape, n_labels, options, scale)
    if options.network == "crnn":
        return crnn(front_end, n_labels, options)
    assert scale is not None  # see `check_normalisation`
    return functional_network(front_end, n_labels, options, scale, beside)


def build_extractor(front_end: FrontEnd, options: NetworkOptions) -> keras.Model | None:
    """The first part of a network, if it has no weights; None: the whole network is trainable."""
    if options.network != "functionals":
        return None
    return functional_extractor(front_end, options.normalise == "file")


def build_learner(
    front_end: FrontEnd,
    n_labels: int,
    options: NetworkOptions,
    scale: Scale | None,
    initial: tuple[Any, Any] | None = None,
) -> keras.Model:
    """The trainable part of a network, which has all of its weights; see `build_network`.

    ``initial`` is for functionals only; see `functional_head`.
    """
    if options.network != "functionals":
        return build_network(front_end, n_labels, options, scale)
    assert scale is not None
    return functional_head(n_labels, options, scale, initial)


def encoder_of(network: keras.Model) -> keras.Model:
    """The part of a network from log-mels to embeddings ``(batch, features)``, on which its head stands."""
    names = {layer.name for layer in network.layers}
    for name in ("embedding", "functionals"):
        if name in names:
            return keras.Model(network.inputs[0], network.get_layer(name).output)
    return features_of(network)


def head_of(network: keras.Model, scale: Scale | None) -> Head:
    """The part of a network from embeddings to probabilities, as arrays.

    Args:
        network: from `build_network`.
        scale: of its embeddings; None: they are not standardised.
    """
    kernel, bias = network.get_layer("emotion").get_weights()
    if scale is None:
        ones = np.ones(len(kernel), np.float32)
        return Head(0.0 * ones, ones - SMALLEST_VARIANCE, kernel, bias)
    return Head(scale.mean, scale.variance, kernel, bias)


def features_of(network: keras.Model) -> keras.Model:
    """The network up to the input of its softmax layer: a model to features ``(batch, features)``."""
    return keras.Model(network.inputs, network.get_layer("emotion").input)
