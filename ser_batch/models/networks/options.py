"""Network options of a recipe; does not import Keras."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from ser_batch.errors import TrainingError
from ser_batch.storage.settings import Settings

Normalisation = Literal["none", "train", "file", "speaker"]
BelowOne = Annotated[float, Field(ge=0, lt=1)]


class NetworkOptions(Settings):
    """The network's family and settings.

    Attributes:
        network: the family: ``functionals``, ``crnn``, or ``seed_crnn`` of the published notebook.
        normalise: normalisation of the network's input. ``train``: standardised with mean and deviation of the
            training examples. ``file``: the same, after subtracting each recording's own mean from every mel band.
            ``speaker``: the same, after transforming each speaker's functionals to the overall mean and deviation.
        dropout: dropout rate before the softmax; in ``seed_crnn`` also before the LSTM.
        norm_momentum: of the running averages of batch normalisation. Keras' default of .99 has a
            time constant of 100 steps: in a training of a few hundred steps, the averages lag far behind the weights.
        l2: penalty on the squared weights of the softmax layer of ``functionals``.
    """

    network: Literal["seed_crnn", "functionals", "crnn"]
    normalise: Normalisation = "train"
    dropout: BelowOne = 0.0
    norm_momentum: BelowOne = 0.99
    l2: NonNegativeFloat = 0.0


def check_normalisation(options: NetworkOptions) -> None:
    """Check that the network supports the normalisation in the options.

    Raises:
        TrainingError: it does not.
    """
    if options.network == "crnn" and options.normalise != "none":
        raise TrainingError("the network crnn has its own normalisation; give --normalise none")
    if options.network == "seed_crnn" and options.normalise in ("file", "speaker"):
        raise TrainingError(
            f"the network seed_crnn cannot be normalised by {options.normalise}; give --normalise none or train"
        )
    if options.network == "functionals" and options.normalise == "none":
        raise TrainingError("the network functionals needs a normalisation; give --normalise train, file or speaker")
