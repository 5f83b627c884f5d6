"""`key=value` and `--key value` settings of a recipe from the command line."""

import difflib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import tyro

from spimm.train.config import OptionValue, Recipe

logger = logging.getLogger("spimm.train")

MODEL_OPTIONS = "model_options"
NAMED = 8
"""Names of which a message lists no more."""


def apply_overrides(recipe: Recipe, tokens: Sequence[str]) -> Recipe:
    """`recipe` with the settings in `tokens`: `lr=1e-3`, `--lr 1e-3`, `--lr=1e-3`, `model_options.neuron=plif`.

    `-` and `_` mean the same in a key. A model option is read as bool, int, float or else text. A setting with several
    values takes them apart by commas (`betas=0.9,0.99`; `milestones=` is none of them). ValueError for an unknown key,
    which names the nearest ones, and for a value of the wrong type.
    """
    changes: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for key, text in _pairs(tokens):
        owner, _, inner = key.partition(".")
        if owner == MODEL_OPTIONS and inner:
            nested.setdefault(owner, dict(recipe.model_options))[inner] = _option(text)
            continue
        types = _settings(recipe)
        if key not in types:
            known = [*types, *_option_keys(recipe)]
            raise ValueError(f"unknown setting {key!r}; {nearest(key, known, rest='spimm train RECIPE --show')}")
        value = _parse(key, text, types[key])
        if inner:
            nested.setdefault(owner, {})[inner] = value
        else:
            changes[owner] = value
    for owner, values in nested.items():
        changes[owner] = values if owner == MODEL_OPTIONS else replace(getattr(recipe, owner), **values)
    return replace(recipe, **_shorter(recipe, changes), **changes)


def _shorter(recipe: Recipe, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Warm-up and milestones that fit into fewer epochs than the recipe has, in proportion, where they do not already.

    Nothing for those that are changed themselves. What is shortened is said.
    """
    epochs = changes.get("epochs", recipe.epochs)
    if not 0 < epochs < recipe.epochs:
        return {}
    share, fitted = epochs / recipe.epochs, {}
    if recipe.warmup_epochs > epochs or (recipe.warmup_epochs == epochs and recipe.schedule == "milestones"):
        fitted["warmup_epochs"] = int(recipe.warmup_epochs * share)
    if recipe.milestones and recipe.milestones[-1] >= epochs:
        first = max(1, fitted.get("warmup_epochs", recipe.warmup_epochs))
        fitted["milestones"] = tuple(sorted({max(first, round(epoch * share)) for epoch in recipe.milestones}))
    fitted = {name: value for name, value in fitted.items() if name not in changes}
    for name, value in fitted.items():
        before = getattr(recipe, name)
        logger.warning(
            "%s is %s where the recipe has %s, to fit epochs=%s of %s", name, value, before, epochs, recipe.epochs
        )
    return fitted


def read_options(tokens: Sequence[str]) -> dict[str, OptionValue]:
    """Options of a model from `key=value` texts, each value read as bool, int, float or else text."""
    return {key: _option(text) for key, text in _pairs(tokens)}


def nearest(name: str, known: Sequence[str], *, rest: str = "") -> str:
    """Text that names the entries of `known` most like `name`, or the first of them where none is.

    rest: what lists all of them, such as a command.
    """
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"nearest: {', '.join(close)}"
    names = sorted(known)
    more = f" and {len(names) - NAMED} more{rest and f': {rest}'}" if len(names) > NAMED else ""
    return f"known: {', '.join(names[:NAMED])}{more}"


def _pairs(tokens: Sequence[str]) -> Iterator[tuple[str, str]]:
    waiting = iter(tokens)
    for token in waiting:
        key, equals, text = token.partition("=")
        if not equals and not token.startswith("--"):
            raise ValueError(f"expected key=value or --key value, got {token!r}")
        if not equals:
            found = next(waiting, None)
            if found is None or found.startswith("--"):
                raise ValueError(f"{token} has no value: write {token} VALUE")
            text = found
        yield key.removeprefix("--").replace("-", "_"), text


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Key -> type of every setting; a nested dataclass gives `owner.inner` keys."""
    settings: dict[str, Any] = {}
    for name, kind in get_type_hints(Recipe).items():
        if is_dataclass(kind):
            inner = get_type_hints(kind)
            settings |= {f"{name}.{item.name}": inner[item.name] for item in fields(kind)}
        elif name != MODEL_OPTIONS:
            settings[name] = kind
    return settings


def _option_keys(recipe: Recipe) -> list[str]:
    return [f"{MODEL_OPTIONS}.{key}" for key in recipe.model_options] or [f"{MODEL_OPTIONS}.KEY"]


def _parse(key: str, text: str, kind: Any) -> Any:
    if kind is str:
        return text
    words = [text] if "tuple" not in str(kind) else text.split(",") if text else []
    spelled = {"true": "True", "false": "False", "none": "None"}
    try:
        with redirect_stderr(io.StringIO()):
            return tyro.cli(kind, args=[spelled.get(word.lower(), word) for word in words], prog=key)
    except SystemExit:
        wanted = kind.__name__ if isinstance(kind, type) else str(kind).replace("typing.", "")
        raise ValueError(f"{key} must be {wanted}, got {text!r}") from None


def _option(text: str) -> OptionValue:
    words: dict[str, bool] = {"true": True, "false": False}
    if text.lower() in words:
        return words[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
