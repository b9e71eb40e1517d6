"""What a recipe chooses of a network; without Keras."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from ser_batch.errors import TrainingError
from ser_batch.storage.settings import Settings

Normalisation = Literal["none", "train", "file", "speaker"]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class NetworkOptions(Settings):
    """The network's family and its values.

    Attributes:
        network: the family, a module of `ser_batch.models.networks`: ``seed_crnn`` (in ``crnn``) or ``functionals``.
        normalise: how the network's input is brought to a common scale. ``train``: by mean and deviation of the
            training examples. ``file``: also, each recording's own mean is taken from every mel band. ``speaker``:
            also, each speaker's functionals are brought to the mean and deviation of all.
        dropout: share dropped in training: of the functionals; in ``seed_crnn`` before the LSTM and before the softmax.
        norm_momentum: of the running averages of batch normalisation in ``seed_crnn``. Keras' .99 forgets with a time
            constant of 100 steps: with a few hundred steps in all, the averages lag far behind the weights.
        l2: penalty on the squared weights of the softmax layer of ``functionals``.
    """

    network: Literal["seed_crnn", "functionals"]
    normalise: Normalisation = "train"
    dropout: BelowOne = 0.0
    norm_momentum: BelowOne = 0.99
    l2: NonNegativeFloat = 0.0


def check_normalisation(options: NetworkOptions) -> None:
    """Check that the network can be normalised as the options name it.

    Raises:
        TrainingError: it cannot.
    """
    if options.network == "seed_crnn" and options.normalise in ("file", "speaker"):
        raise TrainingError(
            f"the network seed_crnn cannot be normalised by {options.normalise}; give --normalise none or train"
        )
    if options.network == "functionals" and options.normalise == "none":
        raise TrainingError(
            "the network functionals cannot be without normalisation; give --normalise train, file or speaker"
        )
