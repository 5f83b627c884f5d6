"""Whether a setting has the type that its field declares, so that a wrong one is an error that names it."""

import types
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def check_types(owner: type, values: Mapping[str, Any], *, prefix: str = "") -> None:
    """ValueError for the first of `values`, by field of the dataclass `owner`, that is of another type.

    prefix: what stands before the field's name in the error.
    """
    hints = _hints(owner)
    for label, value in values.items():
        if label in hints and not _fits(value, hints[label]):
            raise ValueError(f"{prefix}{label} must be {_named(hints[label])}, got {value!r}")


@cache
def _hints(owner: type) -> dict[str, Any]:
    hints = get_type_hints(owner)
    return {field.name: hints[field.name] for field in fields(owner)}


def _fits(value: Any, hint: Any) -> bool:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if hint is type(None):
        return value is None
    if hint in (int, float):
        return isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool)
    if origin is tuple:
        kind = inner[0] if inner else Any
        return isinstance(value, (tuple, list)) and all(_fits(one, kind) for one in value)
    if origin is Literal:
        return isinstance(value, str)  # which texts, the owner checks
    if getattr(hint, "_is_protocol", False):
        return not isinstance(value, bool | int | float | str)
    return isinstance(value, hint if isinstance(hint, type) else origin or object)


def _named(hint: Any) -> str:
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_named(one) for one in inner))
    if hint is type(None):
        return "none"
    if origin is tuple:
        return f"several values, each {KINDS.get(inner[0], 'of its kind')}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    return KINDS.get(hint, getattr(hint, "__name__", str(hint)))
