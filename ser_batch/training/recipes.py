"""Training recipes: all settings that change a network's weights."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

from ser_batch.errors import UsageError
from ser_batch.models.networks.options import BelowOne, NetworkOptions
from ser_batch.storage.settings import Settings

Precision = Literal["float32", "mixed_bfloat16"]

# Names of the parts of a network that are trained one after the other.
PARTS = ("", "crnn")


class Augmentation(Settings):
    """Strength of each augmentation of training examples; 0 switches it off.

    Attributes:
        crop_min_frames, crop_max_frames: range of the length of a random crop; shorter log-mels are repeated.
        warp: frequencies are scaled by a factor from ``1 - warp`` to ``1 + warp`` (vocal tract length perturbation).
        warp_share: share of examples that are warped.
        tempo: speed is scaled by ``exp`` of a number from ``-tempo`` to ``tempo``.
        time_mask: largest masked time range, as a share of the frames.
        mel_mask_bands: largest number of adjacent mel bands that are masked.
        channel_share: share of examples that get a random channel: an equaliser, and at random a low-pass filter,
            noise and reverberation.
        gain_db: largest change of level, up or down, in dB.
        mixup: both parameters of the beta distribution of the mixing weight (Zhang et al., "mixup: Beyond Empirical
            Risk Minimization", 2018).
    """

    crop_min_frames: NonNegativeInt = 0
    crop_max_frames: NonNegativeInt = 0
    warp: BelowOne = 0.0
    warp_share: NonNegativeFloat = 1.0
    tempo: NonNegativeFloat = 0.0
    time_mask: BelowOne = 0.0
    mel_mask_bands: NonNegativeInt = 0
    channel_share: NonNegativeFloat = 0.0
    gain_db: NonNegativeFloat = 0.0
    mixup: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _crop_lengths_are_in_order(self) -> Self:
        if self.crop_min_frames > self.crop_max_frames:
            raise ValueError(f"crop_min_frames should be at most crop_max_frames, {self.crop_max_frames}")
        return self


class OptimisationOptions(Settings):
    """Optimisation of the weights.

    Attributes:
        epochs: passes over the training examples; the weights after the last one are kept.
        batch_size: examples per step.
        learning_rate: maximum learning rate.
        warmup_epochs: number of epochs in which the learning rate rises from zero.
        schedule: after the warm-up: ``constant``, or ``cosine``: decay to zero at the last step.
        weight_decay: of AdamW, on kernels only; 0: Adam.
        clip_norm: largest norm of a step's gradient; 0: unlimited.
        label_smoothing: share of the target that is spread over all labels.
        averaging: decay per step of the moving average of all weights, which the bundle gets; 0: no average.
    """

    epochs: PositiveInt
    batch_size: PositiveInt
    learning_rate: NonNegativeFloat
    warmup_epochs: NonNegativeInt
    schedule: Literal["constant", "cosine"]
    weight_decay: NonNegativeFloat
    clip_norm: NonNegativeFloat
    label_smoothing: BelowOne
    averaging: BelowOne


class CrnnOptions(OptimisationOptions):
    """A convolutional recurrent network (CRNN) that is trained beside the functionals, on its own.

    Attributes:
        share: weight of its logits; those of the functionals have the rest of 1.
        dropout: dropout rate before its softmax.
        norm_momentum: see `NetworkOptions`.
        augmentation: augmentation of its training examples.
    """

    share: BelowOne
    dropout: BelowOne
    norm_momentum: BelowOne
    augmentation: Augmentation = Augmentation()


class Recipe(OptimisationOptions, NetworkOptions):
    """All settings of a training except the data and the seed.

    Attributes:
        name: the recipe's name.
        front_end: the required front-end preset of the records.
        class_weight: ``balanced``: examples of rare labels get higher weights; ``none``: all weights are equal.
        augmentation: augmentation of training examples.
        copies: with ``functionals``: number of augmented copies of every example, used in turn.
        crnn: with ``functionals``: a CRNN beside them, trained for at most ``epochs`` epochs; None: functionals only.
    """

    name: str
    front_end: str
    class_weight: Literal["balanced", "none"]
    augmentation: Augmentation = Augmentation()
    copies: PositiveInt
    crnn: CrnnOptions | None = None

    @model_validator(mode="after")
    def _functionals_are_beside_a_crnn(self) -> Self:
        if self.crnn is not None and self.network != "functionals":
            raise ValueError(f"the table crnn is for the network functionals, not for {self.network}")
        return self

    @model_validator(mode="after")
    def _functionals_are_not_mixed(self) -> Self:
        if self.augmentation.mixup and self.network == "functionals":
            raise ValueError("augmentation.mixup mixes log-mels; the network functionals cannot be trained on mixtures")
        return self

    @property
    def parts(self) -> dict[str, Recipe]:
        """The recipes of the parts of the network, which are trained one after the other, by name; see `PARTS`."""
        if self.crnn is None:
            return {"": self}
        values = dict(self.crnn)
        del values["share"]
        values["epochs"] = min(self.crnn.epochs, self.epochs)
        beside = self.replace(crnn=None, network="crnn", normalise="none", l2=0.0, copies=1, **values)
        return {"": self.replace(crnn=None), "crnn": beside}


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a TOML file, which holds the values that differ from its ``base`` recipe.

    Raises:
        UsageError: the file cannot be read, or has an unknown or invalid value.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error})") from error
    base = values.pop("base", "default")
    if not isinstance(base, str) or base not in RECIPES:
        raise UsageError(f"{path}: base = {base!r}: no such recipe; choose one of {', '.join(RECIPES)}")
    return Recipe.parse(_merged(RECIPES[base].to_json() | {"name": path.stem}, values), str(path), UsageError)


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with changes; a table within them is merged value by value."""
    tables = {
        name: _merged(values[name], change)
        for name, change in changes.items()
        if isinstance(change, dict) and isinstance(values.get(name), dict)
    }
    return {**values, **changes, **tables}


def _preset(path: Path) -> Recipe:
    return Recipe.parse({"name": path.stem} | tomllib.loads(path.read_text(encoding="utf-8")), str(path), UsageError)


RECIPES = {path.stem: _preset(path) for path in sorted(Path(__file__).with_name("presets").glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> Recipe:
    """Find a preset recipe by name, or read a TOML file.

    Args:
        name: a key of `RECIPES`, or a path that ends with ``.toml``.
        changes: values that replace those of the recipe; None: unchanged.

    Raises:
        UsageError: there is no such recipe, or a value is invalid.
    """
    if name.endswith(".toml"):
        recipe = read_recipe(Path(name))
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        known = ", ".join(RECIPES)
        raise UsageError(f"--recipe {name}: no such recipe; choose one of {known}, or name a .toml file")
    changed = {key: value for key, value in changes.items() if value is not None}
    return Recipe.parse(dict(recipe) | changed, "on the command line", UsageError)


def recipe_title(recipe: Mapping[str, Any]) -> str:
    """A recipe's name and its differences from the preset of that name: ``default (epochs 60)``.

    Args:
        recipe: from `Recipe.to_json`.
    """

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        plain = {name: value for name, value in values.items() if not isinstance(value, dict)}
        crnn = flat(values["crnn"]) if values.get("crnn") else {}
        return {**plain, **values.get("augmentation", {}), **{f"crnn.{name}": one for name, one in crnn.items()}}

    preset = flat(RECIPES[recipe["name"]].to_json() if recipe["name"] in RECIPES else recipe)
    changes = [f"{name} {value}" for name, value in flat(recipe).items() if preset.get(name) != value]
    return f"{recipe['name']} ({', '.join(changes)})" if changes else str(recipe["name"])


# The file in a bundle with the predictions of the validation examples, before calibration.
VALIDATION = "validation.csv"


def history_name(part: str) -> str:
    """Name of the file in a bundle with the history of a part of the network; see `PARTS`."""
    return f"history-{part}.csv" if part else "history.csv"


def parse_precision(text: str) -> Precision:
    """Parse ``auto``: bfloat16 if the CPU supports it natively, otherwise float32; or ``off``: float32.

    Raises:
        UsageError: the text is neither.
    """
    if text == "off":
        return "float32"
    if text != "auto":
        raise UsageError(f"--mixed-precision {text}: choose one of auto, off")
    try:
        flags = set(Path("/proc/cpuinfo").read_text(encoding="utf-8").split())
    except OSError:
        flags = set()
    return "mixed_bfloat16" if flags & {"avx512_bf16", "amx_bf16"} else "float32"
