"""Recipes by name, from a file, and as the command line changes them."""

import json
from pathlib import Path

import pytest

from ser_batch.cli.app import main
from ser_batch.errors import UsageError
from ser_batch.training.recipes import (
    RECIPES,
    Augmentation,
    Recipe,
    find_recipe,
    read_recipe,
    recipe_title,
)
from tests.recipes import FULL, write_recipe


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_the_seed_recipe_is_the_published_one() -> None:
    seed = RECIPES["seed"]
    assert (seed.front_end, seed.network, seed.normalise) == ("seed", "seed_crnn", "none")
    assert (seed.learning_rate, seed.batch_size, seed.epochs, seed.schedule) == (1e-4, 16, 10, "constant")
    assert (seed.warmup_epochs, seed.weight_decay, seed.clip_norm, seed.averaging) == (0, 0, 0, 0)
    assert (seed.dropout, seed.label_smoothing, seed.norm_momentum, seed.class_weight) == (0, 0, 0.99, "none")
    assert seed.augmentation == Augmentation()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_found_by_its_name_and_is_json(name: str) -> None:
    recipe = find_recipe(name)
    assert recipe is RECIPES[name] or recipe == RECIPES[name]
    assert recipe.name == name
    values = json.loads(json.dumps(recipe.to_json()))
    assert values.keys() == Recipe.model_fields.keys()
    assert Recipe.model_validate(values) == recipe


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"choose one of default, functionals, seed, or name a \.toml"):
        find_recipe("best")


# --- files


def test_a_file_holds_only_what_differs(tmp_path: Path) -> None:
    recipe = read_recipe(written(tmp_path, 'base = "seed"\nepochs = 3\nlearning_rate = 1\n'))
    assert recipe == RECIPES["seed"].replace(name="mine", epochs=3, learning_rate=1.0)
    assert isinstance(recipe.learning_rate, float)


def test_without_a_base_the_default_is_varied(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, "")) == RECIPES["default"].replace(name="mine")


def test_augmentation_is_varied_value_by_value(tmp_path: Path) -> None:
    first = read_recipe(written(tmp_path, 'base = "seed"\n[augmentation]\nwarp = 0.1\nmel_mask_bands = 4\n'))
    assert first.augmentation == Augmentation(warp=0.1, mel_mask_bands=4)
    base = RECIPES["default"]
    second = read_recipe(written(tmp_path, "[augmentation]\ngain_db = 2.5\n"))
    assert second == base.replace(name="mine", augmentation=base.augmentation.replace(gain_db=2.5))


def test_the_network_of_the_default_recipe_has_two_parts(tmp_path: Path) -> None:
    parts = find_recipe("default", epochs=9).parts
    assert [part.network for part in parts.values()] == ["functionals", "crnn"]
    assert [part.epochs for part in parts.values()] == [9, 9]
    first, second = RECIPES["default"].parts.values()
    assert first == RECIPES["functionals"].replace(name="default")
    assert second.epochs == 40
    assert RECIPES["seed"].parts == {"": RECIPES["seed"]}


def test_a_file_may_hold_everything(tmp_path: Path) -> None:
    assert read_recipe(write_recipe(FULL, tmp_path)) == FULL


def test_its_name_is_its_files_unless_it_has_one(tmp_path: Path) -> None:
    assert find_recipe(str(written(tmp_path, "", "wide net.toml"))).name == "wide net"
    assert find_recipe(str(written(tmp_path, 'name = "tried"'))).name == "tried"


def test_a_title_names_what_was_changed(tmp_path: Path) -> None:
    assert recipe_title(find_recipe("default").to_json()) == "default"
    changed = find_recipe("default", epochs=60, class_weight="none")
    assert recipe_title(changed.to_json()) == "default (epochs 60, class_weight none)"
    assert recipe_title(find_recipe(str(written(tmp_path, "epochs = 3"))).to_json()) == "mine"
    same_name = written(tmp_path, "epochs = 3\n[augmentation]\nwarp = 0.1", "default.toml")
    assert recipe_title(find_recipe(str(same_name)).to_json()) == "default (epochs 3, warp 0.1)"
    of_part = written(tmp_path, "[crnn]\nshare = 0.3\n[crnn.augmentation]\nwarp = 0.1", "default.toml")
    assert recipe_title(find_recipe(str(of_part)).to_json()) == "default (crnn.share 0.3, crnn.warp 0.1)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("epoch = 3", r"mine\.toml: epoch: no such value; did you mean epochs\?"),
        ("[augmentation]\nwrap = 0.1", r"mine\.toml: augmentation\.wrap: no such value; did you mean warp\?"),
        ("[augmentation]\nnoise = 0.1", r"augmentation\.noise: no such value; there are crop_min_frames, crop_max_fr"),
        ("[crnn]\nshares = 0.4", r"crnn\.shares: no such value; did you mean share\?"),
        ("[crnn.augmentation]\nwrap = 0.1", r"crnn\.augmentation\.wrap: no such value; did you mean warp\?"),
        ('network = "crnn"', "the table crnn is for the network functionals, not for crnn"),
        ("[training]\nepochs = 3", r"training: no such value"),
        ('epochs = "3"', "epochs = '3': should be a valid integer"),
        ("epochs = 3.5", "epochs = 3.5: should be a valid integer"),
        ("epochs = true", "epochs = True: should be a valid integer"),
        ("epochs = 0", "epochs = 0: should be greater than 0"),
        ("batch_size = 0", "batch_size = 0: should be greater than 0"),
        ("epochs = -1", "epochs = -1: should be greater than 0"),
        ("learning_rate = -0.1", r"learning_rate = -0.1: should be greater than or equal to 0"),
        ('learning_rate = "fast"', "learning_rate = 'fast': should be a valid number"),
        ("learning_rate = [1e-3]", r"learning_rate = \[0.001\]: should be a valid number"),
        ("learning_rate = nan", "learning_rate = nan: should be a finite number"),
        ("learning_rate = inf", "learning_rate = inf: should be a finite number"),
        ("dropout = 1.5", "dropout = 1.5: should be less than 1"),
        ("averaging = 1", "averaging = 1: should be less than 1"),
        ("[augmentation]\nwarp = 1.0", "warp = 1.0: should be less than 1"),
        ("[augmentation]\ngain_db = -3", r"augmentation\.gain_db = -3: should be greater than or equal to 0"),
        ("[augmentation]\nmel_mask_bands = 1.5", "mel_mask_bands = 1.5: should be a valid integer"),
        ("[augmentation]\ncrop_min_frames = 9\ncrop_max_frames = 5", "crop_min_frames .* at most crop_max_frames, 5"),
        ("augmentation = 3", r"augmentation = 3: should be a table of values"),
        ('network = "resnet"', "network = 'resnet': should be 'seed_crnn', 'functionals' or 'crnn'"),
        ("network = 3", "network = 3: should be 'seed_crnn', 'functionals' or 'crnn'"),
        ('schedule = ["cosine"]', r"schedule = \['cosine'\]: should be 'constant' or 'cosine'"),
        ("front_end = 3", "front_end = 3: should be a valid string"),
        ('base = "best"', "base = 'best': no such recipe; choose one of default, functionals, seed"),
        ("base = 3", "base = 3: no such recipe"),
        ('base = ["seed"]', r"base = \['seed'\]: no such recipe"),
        ("epochs == 3", "cannot be read"),
        ("epochs = 3\nepochs = 4", "cannot be read"),
    ],
)
def test_a_wrong_value_is_one_line_with_what_would_be_right(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UsageError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("absent.toml", "folder.toml", "binary.toml"):
        with pytest.raises(UsageError, match=rf"--recipe \S+{name}: cannot be read"):
            find_recipe(str(tmp_path / name))


# --- the command line


def test_the_command_line_changes_a_recipe(tmp_path: Path) -> None:
    for name in ("default", str(written(tmp_path, "epochs = 9"))):
        recipe = find_recipe(name)
        assert find_recipe(name, epochs=None, normalise=None) == recipe
        changed = find_recipe(name, epochs=2, normalise="none", class_weight="balanced")
        assert changed == recipe.replace(epochs=2, normalise="none", class_weight="balanced")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "best"], "--recipe best: no such recipe"),
        (["--recipe", "absent.toml"], "--recipe absent.toml: cannot be read"),
        (["--normalise", "loudly"], "normalise = 'loudly': should be 'none', 'train', 'file' or 'speaker'"),
        (["--class-weight", "heavy"], "class_weight = 'heavy': should be 'balanced' or 'none'"),
        (["--epochs", "0"], "greater than or equal to 1"),
    ],
)
@pytest.mark.parametrize("command", ["train", "cross-validate"])
def test_a_wrong_option_is_wrong_usage(tmp_path: Path, capfd, command: str, options: list[str], message: str) -> None:
    assert main([command, str(tmp_path), "-o", str(tmp_path / "out"), *options]) == 2
    assert message in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
