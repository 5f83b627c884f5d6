"""`key=value` and `--key value` settings of a recipe from the command line."""

import difflib
import io
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_type_hints

import tyro

from spimm.train.config import OptionValue, Recipe

MODEL_OPTIONS = "model_options"


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
            raise ValueError(f"unknown setting {key!r}; {nearest(key, [*types, *_option_keys(recipe)])}")
        value = _parse(key, text, types[key])
        if inner:
            nested.setdefault(owner, {})[inner] = value
        else:
            changes[owner] = value
    for owner, values in nested.items():
        changes[owner] = values if owner == MODEL_OPTIONS else replace(getattr(recipe, owner), **values)
    return replace(recipe, **changes)


def read_options(tokens: Sequence[str]) -> dict[str, OptionValue]:
    """Options of a model from `key=value` texts, each value read as bool, int, float or else text."""
    return {key: _option(text) for key, text in _pairs(tokens)}


def nearest(name: str, known: Sequence[str]) -> str:
    """Text that names the entries of `known` most like `name`, or all of them where none is."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"known: {', '.join(sorted(known))}"


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
