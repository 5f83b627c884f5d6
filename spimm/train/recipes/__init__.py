"""Recipes by name, each with a docstring that states Command, Cost and Expected, and Source for a published result.

A file here but this one holds one recipe of its own name, `RECIPE`; or several by their names, `RECIPES`, which share
the docstring: `{name}` in it stands for the name, and `NOTES` has lines for each.
"""

import fnmatch
import importlib
import pkgutil
import re
from functools import cache
from types import ModuleType
from typing import NamedTuple

from spimm.train.config import Recipe
from spimm.train.overrides import nearest


class RecipeFacts(NamedTuple):
    """What the text of a recipe states, each on one line."""

    command: str
    cost: str
    expected: str
    source: str
    """Where a result is published that the recipe is for, or `ours`."""


def list_recipes(pattern: str = "*") -> list[str]:
    """Names of the recipes that match a shell-style pattern, sorted."""
    return sorted(fnmatch.filter(_modules(), pattern))


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`. ValueError that names the nearest ones if there is none."""
    return _recipes(_module(name))[name]


def describe_recipe(name: str) -> str:
    """What the recipe called `name` is, and its command, cost and expected result."""
    module = _module(name)
    text = (module.__doc__ or "").replace("{name}", name)
    return text + module.NOTES[name] + "\n" if hasattr(module, "NOTES") else text


def recipe_facts(name: str) -> RecipeFacts:
    """Command, cost, expected result and source as `describe_recipe` has them."""
    stated = {
        label.lower(): " ".join(text.split())
        for label, text in re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", describe_recipe(name), re.MULTILINE | re.DOTALL)
    }
    return RecipeFacts(stated["command"], stated["cost"], stated["expected"], stated.get("source", "ours"))


def _module(name: str) -> ModuleType:
    modules = _modules()
    if name not in modules:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, list(modules), rest='spimm recipes')}")
    return modules[name]


@cache
def _modules() -> dict[str, ModuleType]:
    """Name of every recipe -> the module that holds it."""
    modules = [importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)]
    return {name: module for module in modules for name in _recipes(module)}


def _recipes(module: ModuleType) -> dict[str, Recipe]:
    return module.RECIPES if hasattr(module, "RECIPES") else {module.__name__.rpartition(".")[2]: module.RECIPE}
