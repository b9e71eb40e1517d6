"""Recipes that train in seconds, whatever the default one's values are."""

import json
from pathlib import Path
from typing import Any

from ser_batch.training.recipes import RECIPES, Augmentation, Recipe

# For records of any front end that is no preset.
PLAIN = RECIPES["default"].replace(
    name="plain",
    front_end="custom",
    network="functionals",
    normalise="train",
    epochs=3,
    batch_size=4,
    learning_rate=1e-3,
    warmup_epochs=0,
    schedule="constant",
    weight_decay=0.0,
    clip_norm=0.0,
    label_smoothing=0.0,
    averaging=0.0,
    class_weight="none",
    dropout=0.0,
    norm_momentum=0.9,
    l2=0.0,
    augmentation=Augmentation(),
    copies=1,
    crnn=None,
)

# All that may be random or has a state of its own.
FULL = PLAIN.replace(
    name="full",
    normalise="speaker",
    warmup_epochs=1,
    schedule="cosine",
    weight_decay=0.02,
    clip_norm=5.0,
    label_smoothing=0.1,
    averaging=0.9,
    class_weight="balanced",
    dropout=0.2,
    l2=1e-4,
    augmentation=Augmentation(
        crop_min_frames=20,
        crop_max_frames=40,
        warp=0.16,
        warp_share=0.7,
        tempo=0.15,
        time_mask=0.15,
        mel_mask_bands=4,
        gain_db=3.0,
    ),
    copies=2,
)


def write_recipe(recipe: Recipe, folder: Path) -> Path:
    """The recipe as ``NAME.toml``, every value written out."""

    def lines(values: dict[str, Any]) -> list[str]:
        return [f"{name} = {json.dumps(value)}" for name, value in values.items()]

    values = {name: value for name, value in recipe.to_json().items() if value is not None}
    values["base"] = "functionals"  # without a CRNN
    path = folder / f"{values.pop('name')}.toml"
    augmentation = values.pop("augmentation")
    path.write_text("\n".join([*lines(values), "[augmentation]", *lines(augmentation)]))
    return path
