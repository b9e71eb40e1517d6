"""From a recipe's options to a network: as a whole, and in a part without weights and one that learns."""

from __future__ import annotations

import keras

from ser_batch.audio.frontends import FrontEnd
from ser_batch.models.networks.crnn import seed_crnn
from ser_batch.models.networks.functionals import functional_extractor, functional_head, functional_network
from ser_batch.models.networks.options import NetworkOptions
from ser_batch.models.normalisation import Scale


def build_network(front_end: FrontEnd, n_labels: int, options: NetworkOptions, scale: Scale | None) -> keras.Model:
    """A network with its first weights.

    Args:
        front_end: what its log-mels are made with.
        n_labels: width of the softmax.
        options: which network.
        scale: of the training examples, to standardise with; None: not at all.

    Raises:
        TrainingError: the network and the front end do not fit.
    """
    if options.network == "seed_crnn":
        return seed_crnn(front_end.shape, n_labels, options, scale)
    assert scale is not None  # see `check_normalisation`
    return functional_network(front_end, n_labels, options, scale)


def build_extractor(front_end: FrontEnd, options: NetworkOptions) -> keras.Model | None:
    """The first part of a network, if that has no weights; None: all of it learns."""
    if options.network == "seed_crnn":
        return None
    return functional_extractor(front_end, options.normalise == "file")


def build_learner(front_end: FrontEnd, n_labels: int, options: NetworkOptions, scale: Scale | None) -> keras.Model:
    """The part of a network that learns, with the weights of all of it; see `build_network`."""
    if options.network == "seed_crnn":
        return build_network(front_end, n_labels, options, scale)
    assert scale is not None
    return functional_head(front_end, n_labels, options, scale)


def functionals_of(network: keras.Model) -> keras.Model:
    """The part of a functional network from log-mels to functionals ``(batch, features)``."""
    return keras.Model(network.inputs[0], network.get_layer("functionals").output)


def features_of(network: keras.Model) -> keras.Model:
    """The network up to the input of its softmax layer: a model to features ``(batch, features)``."""
    return keras.Model(network.inputs, network.get_layer("emotion").input)
