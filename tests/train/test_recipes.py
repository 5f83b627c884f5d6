import re

import pytest

from spimm.train import Recipe, describe_recipe, list_recipes, load_recipe


def test_the_recipes_are_the_files_of_the_folder() -> None:
    assert {"digits", "mnist", "cifar10_jpeg", "qkformer_cifar"} <= set(list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_under_its_own_name_and_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe


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
    with pytest.raises(ValueError, match=r"unknown recipe 'zzz'; known: cifar10_jpeg, digits"):
        load_recipe("zzz")
