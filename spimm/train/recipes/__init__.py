"""Recipes by name. Each file here but this one holds one: `RECIPE`, and a docstring with Command, Cost and Expected."""

import importlib
import pkgutil
from types import ModuleType

from spimm.train.config import Recipe
from spimm.train.overrides import nearest


def list_recipes() -> list[str]:
    """Names of the recipes, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load_recipe(name: str) -> Recipe:
    """The recipe called `name`. ValueError that names the nearest ones if there is none."""
    return _module(name).RECIPE


def describe_recipe(name: str) -> str:
    """What the recipe called `name` is, and its command, cost and expected result."""
    return _module(name).__doc__ or ""


def _module(name: str) -> ModuleType:
    known = list_recipes()
    if name not in known:
        raise ValueError(f"unknown recipe {name!r}; {nearest(name, known)}")
    return importlib.import_module(f"{__name__}.{name}")
