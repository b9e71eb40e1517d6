"""How a network is trained: every choice that changes its weights, by name."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from ser_batch.errors import UsageError


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training but the data and the seed.

    Attributes:
        name: what people call it.
        epochs: passes over the training split; the last one's weights are kept.
        batch_size: examples per step.
        learning_rate: Adam's, at its highest.
        schedule: ``constant``, or ``cosine``: from there to zero over all steps.
        standardise: scale every mel band by the training split's mean and deviation, inside the model.
        dropout, norm_momentum: see `ser_batch.models.crnn.CrnnOptions`.
        label_smoothing: share of the target spread over all labels.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Literal["constant", "cosine"]
    standardise: bool
    dropout: float
    norm_momentum: float
    label_smoothing: float

    def to_json(self) -> dict[str, Any]:
        """All values as a JSON object."""
        return dataclasses.asdict(self)


RECIPES = {
    # The published notebook's, kept as it was.
    "seed": Recipe(
        name="seed",
        epochs=10,
        batch_size=16,
        learning_rate=1e-4,
        schedule="constant",
        standardise=False,
        dropout=0.0,
        norm_momentum=0.99,
        label_smoothing=0.0,
    ),
    "default": Recipe(
        name="default",
        epochs=15,
        batch_size=16,
        learning_rate=1e-3,
        schedule="cosine",
        standardise=True,
        dropout=0.3,
        norm_momentum=0.9,
        label_smoothing=0.1,
    ),
}


def named_recipe(name: str, epochs: int | None = None) -> Recipe:
    """The recipe of that name.

    Args:
        name: a key of `RECIPES`.
        epochs: instead of the recipe's own.

    Raises:
        UsageError: there is none.
    """
    try:
        recipe = RECIPES[name]
    except KeyError:
        raise UsageError(f"--recipe {name}: no such recipe; choose one of {', '.join(sorted(RECIPES))}") from None
    return recipe if epochs is None else dataclasses.replace(recipe, epochs=epochs)
