import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from spimm.data import ImageData, ImageSplit
from spimm.models import model_card
from spimm.models.resnet import TABLES
from spimm.train import Recipe, apply_overrides, describe_recipe, list_recipes, load_recipe, train


def test_the_recipes_are_those_of_the_files_of_the_folder() -> None:
    assert {"digits", "mnist", "nmnist", "cifar10_jpeg", "qkformer_cifar"} <= set(list_recipes())
    assert {f"cifar100_{row}" for row in TABLES} <= set(list_recipes())
    assert "cifar100_spk" not in list_recipes()


@pytest.mark.parametrize("row", TABLES)
def test_a_row_of_the_tables_has_a_recipe_with_its_options_and_the_accuracy_printed_there(row: str) -> None:
    recipe, text = load_recipe(f"cifar100_{row}"), describe_recipe(f"cifar100_{row}")
    assert recipe.model_options == TABLES[row].options
    assert f"Expected: published {TABLES[row].top1} % top-1 (Table {TABLES[row].table})" in text
    assert text.count("Expected") == 1


@pytest.mark.parametrize(
    "name", [name for name in list_recipes() if name.startswith("ttfs_vgg") and name[-4:] != "_ann"]
)
def test_a_network_of_spike_times_starts_from_the_run_of_its_twin_on_the_same_data(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.init_from is not None
    twin = load_recipe(recipe.init_from.removeprefix("runs/"))
    assert (twin.model, twin.data, twin.augment) == (f"{recipe.model}_ann", recipe.data, recipe.augment)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_under_its_own_name_and_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe


def distinct() -> list[str]:
    """One name of the recipes that differ in nothing but their data and the weights they start from."""
    first: dict[str, str] = {}
    for name in list_recipes():
        recipe = replace(load_recipe(name), name="any", data="any", init_from=None)
        first.setdefault(json.dumps(recipe.to_json(), sort_keys=True), name)
    return list(first.values())


@pytest.mark.parametrize("name", distinct())
def test_every_recipe_trains_its_model_for_a_step(name: str, tmp_path: Path) -> None:
    settings = ["epochs=1", "warmup_epochs=0", "cooldown_epochs=0", "batch_size=2", "num_workers=0", "device=cpu"]
    recipe = apply_overrides(load_recipe(name), [*settings, "tensorboard=false", "log_every=1", "init_from=none"])
    card = model_card(recipe.model)
    channels, height, width = card.input_size
    random = np.random.default_rng(0)
    steps = () if recipe.frames is None else (recipe.frames,)
    images = random.integers(0, 256, (2, height, width, *steps, channels), dtype=np.uint8)
    split = ImageSplit.from_arrays(images, np.array([0, card.num_classes - 1]))
    names, level = tuple(map(str, range(card.num_classes))), (0.5,) * channels
    data = ImageData("noise", split, split, class_names=names, mean=level, std=level, note="made here")
    result = train(recipe, tmp_path, data=data, console=Console(file=StringIO()))
    assert (result.completed, result.step) == (True, 1)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_states_its_command_cost_and_expected_result(name: str) -> None:
    text = describe_recipe(name)
    command = re.search(r"^Command: (.+)$", text, re.MULTILINE)
    assert command is not None
    assert command[1].endswith(f"spimm train {name}")
    for field in ("Cost", "Expected"):
        assert re.search(rf"^{field}: \S+", text, re.MULTILINE), field


def test_an_unknown_recipe_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'digit'; nearest: digits"):
        load_recipe("digit")
    with pytest.raises(ValueError, match=r"unknown recipe 'zzz'; known: .*cifar10_jpeg, digits, "):
        load_recipe("zzz")
