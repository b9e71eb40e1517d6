"""From a recipe to its network: as a whole, and in a part without weights and one that learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ser_batch.errors import TrainingError
from ser_batch.models.networks.crnn import CrnnOptions, seed_crnn
from ser_batch.models.networks.functionals import (
    FunctionalOptions,
    functional_extractor,
    functional_head,
    functional_network,
)
from ser_batch.models.normalisation import Scale
from ser_batch.records.folder import RecordFolder
from ser_batch.training.recipes import Recipe

if TYPE_CHECKING:
    import keras


def refuse_unfit(recipe: Recipe) -> None:
    """See that the recipe's network can be normalised as it says.

    Raises:
        TrainingError: it cannot.
    """
    if recipe.network == "seed_crnn" and recipe.normalise in ("file", "speaker"):
        raise TrainingError(
            f"the network seed_crnn cannot be normalised by {recipe.normalise}; give --normalise none or train"
        )
    if recipe.network == "functionals" and recipe.normalise == "none":
        raise TrainingError(
            "the network functionals cannot be without normalisation; give --normalise train, file or speaker"
        )


def build_network(records: RecordFolder, recipe: Recipe, scale: Scale | None) -> keras.Model:
    """The recipe's network, with its first weights, for the log-mels and labels of a record folder.

    Args:
        records: a finished record folder.
        recipe: which network.
        scale: what it standardises with, from `training_scale`; None: nothing.

    Raises:
        TrainingError: the recipe, its network and the front end do not fit.
    """
    shape, n_labels = records.front_end.shape, len(records.labels)
    if recipe.network == "seed_crnn":
        return seed_crnn(shape, n_labels, CrnnOptions(recipe.dropout, recipe.norm_momentum), scale)
    return functional_network(
        records.front_end,
        n_labels,
        FunctionalOptions(recipe.dropout, recipe.l2),
        _needed(scale),
        centre_files=recipe.normalise == "file",
        by_speaker=recipe.normalise == "speaker",
    )


def build_extractor(records: RecordFolder, recipe: Recipe) -> keras.Model | None:
    """The first part of the recipe's network, if that has no weights; None: all of it learns."""
    if recipe.network == "seed_crnn":
        return None
    return functional_extractor(records.front_end, recipe.normalise == "file")


def build_learner(records: RecordFolder, recipe: Recipe, scale: Scale | None) -> keras.Model:
    """The part of the recipe's network that learns, with the weights of all of it."""
    if recipe.network == "seed_crnn":
        return build_network(records, recipe, scale)
    options = FunctionalOptions(recipe.dropout, recipe.l2)
    by_speaker = recipe.normalise == "speaker"
    return functional_head(records.front_end, len(records.labels), options, _needed(scale), by_speaker)


def _needed(scale: Scale | None) -> Scale:
    if scale is None:
        raise TrainingError("the network functionals needs the scale of the training examples")
    return scale


def functionals_of(network: keras.Model) -> keras.Model:
    """The part of a functional network from log-mels to functionals ``(batch, features)``."""
    from keras import Model

    return Model(network.inputs[0], network.get_layer("functionals").output)


def features_of(network: keras.Model) -> keras.Model:
    """The same network up to what its softmax layer sees: a model to features ``(batch, features)``."""
    from keras import Model

    return Model(network.inputs, network.get_layer("emotion").input)
