"""How a network is trained: every choice that changes its weights, by name."""

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


class Augmentation(Settings):
    """How far training examples are augmented; 0 switches a kind off.

    Attributes:
        crop_min_frames, crop_max_frames: length of a random crop, drawn between the two; shorter log-mels stay whole.
        warp: the vocal tract's length is scaled by a factor from ``1 - warp`` to ``1 + warp``.
        warp_share: share of examples that are warped.
        tempo: speed is scaled by ``exp`` of a number from ``-tempo`` to ``tempo``.
        time_mask: longest stretch of time that is masked, as a share of the frames.
        mel_mask_bands: widest run of mel bands that is masked.
        gain_db: level is changed by up to so many dB, up or down.
        mixup: both parameters of the beta distribution that two examples' shares are drawn from (Zhang et
            al., "mixup: Beyond Empirical Risk Minimization", 2018).
    """

    crop_min_frames: NonNegativeInt = 0
    crop_max_frames: NonNegativeInt = 0
    warp: BelowOne = 0.0
    warp_share: NonNegativeFloat = 1.0
    tempo: NonNegativeFloat = 0.0
    time_mask: BelowOne = 0.0
    mel_mask_bands: NonNegativeInt = 0
    gain_db: NonNegativeFloat = 0.0
    mixup: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _crop_lengths_are_in_order(self) -> Self:
        if self.crop_min_frames > self.crop_max_frames:
            raise ValueError(f"crop_min_frames should be at most crop_max_frames, {self.crop_max_frames}")
        return self


class OptimisationOptions(Settings):
    """How weights are found.

    Attributes:
        epochs: passes over the training examples; the last one's weights are kept.
        batch_size: examples per step.
        learning_rate: at its highest.
        warmup_epochs: how long it rises from zero.
        schedule: what comes then: ``constant``, or ``cosine``: down to zero over all that is left.
        weight_decay: of AdamW, on kernels only; 0: Adam.
        clip_norm: largest norm of a step's gradient; 0: unlimited.
        label_smoothing: share of the target spread over all labels.
        averaging: decay per step of the moving average of all weights, which is what is kept; 0: none.
        class_weight: ``balanced``: the rarer a label, the more an example counts; ``none``: all alike.
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
    class_weight: Literal["balanced", "none"]


class Recipe(OptimisationOptions, NetworkOptions):
    """Every choice of a training but the data and the seed.

    Attributes:
        name: for people.
        front_end: the preset that the records have to be made with.
        augmentation: how training examples are augmented.
        copies: with ``functionals``: so many augmented copies of every example are made, and used in turn.
    """

    name: str
    front_end: str
    augmentation: Augmentation = Augmentation()
    copies: PositiveInt


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file: the values that differ from those of the recipe it names as ``base``.

    Raises:
        UsageError: it cannot be read, or a value in it is unknown or wrong.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error})") from error
    base = values.pop("base", "default")
    if not isinstance(base, str) or base not in RECIPES:
        raise UsageError(f"{path}: base = {base!r}: no such recipe; choose one of {', '.join(RECIPES)}")
    preset = RECIPES[base].to_json()
    if isinstance(augmentation := values.get("augmentation"), dict):
        values["augmentation"] = preset["augmentation"] | augmentation
    return Recipe.parse(preset | {"name": path.stem} | values, str(path), UsageError)


def _preset(path: Path) -> Recipe:
    return Recipe.parse({"name": path.stem} | tomllib.loads(path.read_text(encoding="utf-8")), str(path), UsageError)


RECIPES = {path.stem: _preset(path) for path in sorted(Path(__file__).with_name("presets").glob("*.toml"))}


def find_recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, or the one in a TOML file.

    Args:
        name: a key of `RECIPES`, or a path that ends with ``.toml``.
        changes: values to change in it; None leaves one.

    Raises:
        UsageError: there is none, or a value in it is wrong.
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
    """A recipe's name, and what differs from the preset of that name: ``default (epochs 60)``.

    Args:
        recipe: as `Recipe.to_json` gives it.
    """

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        others = {name: value for name, value in values.items() if name != "augmentation"}
        return {**others, **values.get("augmentation", {})}

    preset = flat(RECIPES[recipe["name"]].to_json() if recipe["name"] in RECIPES else recipe)
    changes = [f"{name} {value}" for name, value in flat(recipe).items() if preset.get(name) != value]
    return f"{recipe['name']} ({', '.join(changes)})" if changes else str(recipe["name"])


def parse_precision(text: str) -> Precision:
    """``auto``: bfloat16 where this machine computes in it natively, else float32; or ``off``: float32.

    Raises:
        UsageError: neither.
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
