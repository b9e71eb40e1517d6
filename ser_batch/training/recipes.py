"""How a network is trained: every choice that changes its weights, by name."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ser_batch.errors import UsageError

NetworkName = Literal["seed_crnn", "functionals"]
Normalisation = Literal["none", "train", "file", "speaker"]


@dataclass(frozen=True)
class Recipe:
    """Every choice of a training but the data and the seed.

    Attributes:
        name: what people call it.
        front_end: the preset that the records have to be made with.
        network: ``seed_crnn`` or ``functionals``, modules of `ser_batch.models.networks`.
        normalise: what the network's input is brought to a common scale with. ``train``: mean and deviation of
            the training examples. ``file``: as well, each recording's own mean is taken from every mel band.
            ``speaker``: as well, each speaker's functionals are brought to the mean and deviation of all.
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
        dropout: see `CrnnOptions` and `FunctionalOptions` in `ser_batch.models.networks`.
        norm_momentum: of `seed_crnn`.
        l2: of ``functionals``.
        augmentation: how training examples are varied.
        copies: with ``functionals``: so many varied copies of every example are made, and used in turn.
    """

    name: str
    front_end: str
    network: NetworkName
    normalise: Normalisation
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_epochs: int
    schedule: Literal["constant", "cosine"]
    weight_decay: float
    clip_norm: float
    label_smoothing: float
    averaging: float
    class_weight: Literal["balanced", "none"]
    dropout: float
    norm_momentum: float
    l2: float
    augmentation: Augmentation
    copies: int

    def to_json(self) -> dict[str, Any]:
        """All values as a JSON object."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Augmentation:
    """How much is varied; 0 leaves a thing as it is.

    Attributes:
        crop_min_frames, crop_max_frames: length of a random crop, drawn between the two; shorter log-mels stay whole.
        warp: the vocal tract's length is scaled by a factor from ``1 - warp`` to ``1 + warp``.
        warp_share: share of examples that are warped.
        tempo: speed is scaled by ``exp`` of something from ``-tempo`` to ``tempo``.
        time_mask: longest stretch of time that is masked, as a share of the frames.
        mel_mask_bands: widest run of mel bands that is masked.
        gain_db: level is changed by up to so many dB, up or down.
        mixup: both parameters of the beta distribution that two examples' shares are drawn from (Zhang et
            al., "mixup: Beyond Empirical Risk Minimization", 2018).
    """

    crop_min_frames: int = 0
    crop_max_frames: int = 0
    warp: float = 0.0
    warp_share: float = 1.0
    tempo: float = 0.0
    time_mask: float = 0.0
    mel_mask_bands: int = 0
    gain_db: float = 0.0
    mixup: float = 0.0


RECIPES = {
    # The published notebook's, kept as it was.
    "seed": Recipe(
        name="seed",
        front_end="seed",
        network="seed_crnn",
        normalise="none",
        epochs=10,
        batch_size=16,
        learning_rate=1e-4,
        warmup_epochs=0,
        schedule="constant",
        weight_decay=0.0,
        clip_norm=0.0,
        label_smoothing=0.0,
        averaging=0.0,
        class_weight="none",
        dropout=0.0,
        norm_momentum=0.99,
        l2=0.0,
        augmentation=Augmentation(),
        copies=1,
    ),
    "default": Recipe(
        name="default",
        front_end="speech",
        network="functionals",
        normalise="train",
        epochs=120,
        batch_size=32,
        learning_rate=1e-2,
        warmup_epochs=2,
        schedule="cosine",
        weight_decay=0.0,
        clip_norm=0.0,
        label_smoothing=0.0,
        averaging=0.99,
        class_weight="balanced",
        dropout=0.0,
        norm_momentum=0.9,
        l2=0.035,
        augmentation=Augmentation(warp=0.08, warp_share=0.7),
        copies=4,
    ),
}


def recipe_title(recipe: Mapping[str, Any]) -> str:
    """A recipe's name, and what is not as in ours of that name: ``default (epochs 60)``.

    Args:
        recipe: as `Recipe.to_json` gives it.
    """

    def flat(values: Mapping[str, Any]) -> dict[str, Any]:
        varied: dict[str, Any] = values.get("augmentation", {})
        return {name: value for name, value in values.items() if name != "augmentation"} | varied

    ours = flat(RECIPES[recipe["name"]].to_json() if recipe["name"] in RECIPES else recipe)
    changes = [f"{name} {value}" for name, value in flat(recipe).items() if ours.get(name) != value]
    return f"{recipe['name']} ({', '.join(changes)})" if changes else str(recipe["name"])


@dataclass(frozen=True)
class RecipeChanges:
    """What a command line changes in a recipe; None leaves it."""

    epochs: int | None = None
    normalise: str | None = None
    class_weight: str | None = None


def find_recipe(name: str, changes: RecipeChanges | None = None) -> Recipe:
    """The recipe of that name, or the one in a TOML file.

    Args:
        name: a key of `RECIPES`, or a path that ends with ``.toml``.
        changes: to make in it.

    Raises:
        UsageError: there is none, or a value in it is wrong.
    """
    if name.endswith(".toml"):
        recipe = read_recipe(Path(name))
    elif name in RECIPES:
        recipe = RECIPES[name]
    else:
        known = ", ".join(sorted(RECIPES))
        raise UsageError(f"--recipe {name}: no such recipe; choose one of {known}, or name a .toml file")
    wanted = {key: value for key, value in dataclasses.asdict(changes or RecipeChanges()).items() if value is not None}
    return _changed(recipe, wanted, "on the command line")


def read_recipe(path: Path) -> Recipe:
    """A recipe from a TOML file: the values that differ from those of the recipe it names as ``base``.

    Raises:
        UsageError: it cannot be read, or a value in it is unknown or of the wrong kind.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"--recipe {path}: cannot be read ({error})") from error
    base = values.pop("base", "default")
    if not isinstance(base, str) or base not in RECIPES:
        raise UsageError(f"{path}: base = {base!r}: no such recipe; choose one of {', '.join(sorted(RECIPES))}")
    return _changed(dataclasses.replace(RECIPES[base], name=path.stem), values, str(path))


def _changed(recipe: Recipe, values: dict[str, Any], where: str) -> Recipe:
    augmentation = values.get("augmentation", {})
    if not isinstance(augmentation, dict):
        raise UsageError(f"{where}: augmentation = {augmentation!r}: write it as a table, [augmentation]")
    checked = _checked(recipe, {key: value for key, value in values.items() if key != "augmentation"}, where)
    varied = dataclasses.replace(
        recipe.augmentation, **_checked(recipe.augmentation, augmentation, f"{where}, augmentation")
    )
    if varied.crop_min_frames > varied.crop_max_frames:
        raise UsageError(
            f"{where}, augmentation: crop_min_frames = {varied.crop_min_frames}: give at most crop_max_frames, "
            f"{varied.crop_max_frames}"
        )
    return dataclasses.replace(recipe, **checked, augmentation=varied)


# A dropout of 1 would leave nothing, an average that keeps all would never move, and so on.
_BELOW_ONE = {"dropout", "norm_momentum", "label_smoothing", "averaging", "warp", "time_mask"}
_ABOVE_ZERO = {"epochs", "batch_size", "copies"}


def _checked(example: Recipe | Augmentation, values: dict[str, Any], where: str) -> dict[str, Any]:
    """The values, each of the kind that its field has."""
    kinds = typing.get_type_hints(type(example))
    checked = {}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"{where}: {name}: no such value; there are {', '.join(kinds)}")
        kind = kinds[name]
        choices = typing.get_args(kind)
        if choices and value not in choices:
            raise UsageError(f"{where}: {name} = {value!r}: choose one of {', '.join(choices)}")
        if kind in (int, float):
            whole, least = "a whole number" if kind is int else "a number", int(name in _ABOVE_ZERO)
            if isinstance(value, bool) or not isinstance(value, (int, kind)) or not least <= value < math.inf:
                raise UsageError(f"{where}: {name} = {value!r}: give {whole}, {least} or more")
        if name in _BELOW_ONE and value >= 1:
            raise UsageError(f"{where}: {name} = {value!r}: give a number from 0 to less than 1")
        if kind is str and not isinstance(value, str):
            raise UsageError(f"{where}: {name} = {value!r}: give a text")
        checked[name] = float(value) if kind is float else value
    return checked
