"""Dataclasses from JSON values of unknown origin: each value is checked against the type of its field."""

import reprlib
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
LARGEST = 2**63
"""Integers are smaller than it, as those of tensors."""
_PLAIN = {str: "a text", bool: "true or false", int: "an integer of 64 bits", float: "a number", type(None): "null"}


def from_json(kind: type[T], values: object, what: str, *, known_only: bool = True) -> T:
    """The dataclass `kind` whose fields are in `values`; `what` names it in errors.

    Fields may be str, bool, int, float, None, Literal, Any, unions, tuples and lists (both lists in JSON), mappings
    from str, and dataclasses. ValueError for anything but an object, for a value of another type, a field that is
    missing, and, unless `known_only` is False, for a field that `kind` has not.
    """
    if not isinstance(values, dict):
        raise ValueError(f"the {what} must be an object of JSON, got {reprlib.repr(values)}")
    hints = get_type_hints(kind)
    own = {item.name: item for item in fields(kind) if item.init}  # type: ignore[arg-type]
    unknown = sorted(values.keys() - own.keys())
    if unknown and known_only:
        names = ", ".join(unknown[:3])
        raise ValueError(f"the {what} has fields this version of spimm does not know: {names:.200}")
    needed = [name for name, item in own.items() if item.default is MISSING and item.default_factory is MISSING]
    missing = [name for name in needed if name not in values]
    if missing:
        raise ValueError(f"the {what} has no {', '.join(missing[:3])}")
    return kind(**{name: convert(values[name], hints[name], name) for name in own if name in values})


def convert(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type `hint` has it. ValueError, which names the field, for a value of another type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _first(value, inner, name, hint)
    if origin is Literal:
        matches = any(type(value) is type(choice) and value == choice for choice in inner)
        return _checked(value, matches, name, "one of " + ", ".join(map(repr, inner)))
    if isinstance(hint, type) and is_dataclass(hint):
        return from_json(hint, value, name)
    if origin in (tuple, list):
        _checked(value, isinstance(value, list | tuple), name, "a list")
        each = inner[:1] * len(value) if origin is list or inner[1:] == (...,) else inner
        _checked(value, len(each) == len(value), name, f"{len(each)} values")
        return origin(convert(item, kind, name) for item, kind in zip(value, each, strict=True))
    if origin in (dict, Mapping):
        _checked(value, isinstance(value, dict), name, "an object of JSON")
        return {key: convert(item, inner[1], f"{name}.{key:.40}") for key, item in value.items()}
    return _checked(value, _is_plain(value, hint), name, _PLAIN[hint])


def _is_plain(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if isinstance(value, int):
        return kind in (int, float) and -LARGEST <= value < LARGEST
    return isinstance(value, kind)


def _first(value: Any, kinds: tuple[Any, ...], name: str, hint: Any) -> Any:
    for kind in kinds:
        try:
            return convert(value, kind, name)
        except ValueError:
            continue
    return _checked(value, False, name, str(hint).replace("typing.", ""))


def _checked(value: Any, matches: bool, name: str, expected: str) -> Any:
    if not matches:
        raise ValueError(f"{name} must be {expected}, got {reprlib.repr(value)}")
    return value
