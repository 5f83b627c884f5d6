"""Cases by name. A case is one function that prepares a `Plan`: what to check, what to measure, what to compare."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Options:
    """What a case is asked for."""

    peers: bool = True
    """Compare with the other library; without it only our sides are measured."""
    quick: bool = False
    """Tiny shapes and few repeats, to see that everything runs; the numbers mean nothing."""

    @property
    def libraries(self) -> tuple[str, ...]:
        """Who takes part; sides are named `library precision`."""
        return ("spimm", "spikingjelly") if self.peers else ("spimm",)


@dataclass(frozen=True)
class Ratio:
    """`slower` over `faster`, two names of sides, and the least value wanted of it, if any."""

    slower: str
    faster: str
    goal: float | None = None


@dataclass(frozen=True)
class Work:
    """What one call of a side cannot do without, and the side that shows what the machine can do of it."""

    amount: float
    unit: Literal["B", "FLOP"]
    """Bytes read and written, or floating-point operations."""
    limit: str
    """Name of a side that has work of this unit."""


@dataclass(frozen=True)
class Series:
    """Sides that differ in one number: a line of a plot. `expected` is the exponent of a power law, if there is one."""

    name: str
    sides: Mapping[float, str]
    """The number, and the name of the side that has it."""
    expected: float | None = None


@dataclass(frozen=True)
class Sweep:
    """Series over the same number, called `label`, e.g. `T`."""

    label: str
    series: Sequence[Series]


@dataclass(frozen=True)
class Plan:
    """A prepared case. Every side's function makes one measurement and returns it in `unit`; smaller is better."""

    setting: Mapping[str, Any]
    """Shapes and sizes, for the record."""
    check: Callable[[], Mapping[str, float]]
    """Runs before anything is measured; gives the differences found, or raises Mismatch if they are too large."""
    sides: Mapping[str, Callable[[], float]]
    ratios: Sequence[Ratio] = ()
    work: Mapping[str, Work] = field(default_factory=dict)
    """Of sides in milliseconds."""
    sweep: Sweep | None = None
    unit: str = "ms"
    warmup: int = 1
    repeats: int = 5

    def __post_init__(self) -> None:
        named = {"a ratio": [name for ratio in self.ratios for name in (ratio.slower, ratio.faster)]}
        named["a piece of work"] = [name for side, work in self.work.items() for name in (side, work.limit)]
        named["a series"] = [name for series in self.series for name in series.sides.values()]
        for what, name in ((what, name) for what, names in named.items() for name in names):
            if name not in self.sides:
                raise ValueError(f"{what} names the side {name!r}; the sides are {', '.join(self.sides)}")
        if self.warmup < 0 or self.repeats < 1:
            raise ValueError(f"warmup is {self.warmup} and repeats {self.repeats}; wanted at least 0 and 1")

    @property
    def series(self) -> Sequence[Series]:
        """Those of the sweep; none without one."""
        return self.sweep.series if self.sweep else ()


@dataclass(frozen=True)
class Case:
    name: str
    about: str
    prepare: Callable[[Options], Plan] = field(repr=False)


_cases: dict[str, Case] = {}


def register_case(name: str, about: str) -> Callable[[Callable[[Options], Plan]], Callable[[Options], Plan]]:
    """Decorator that makes a function the case of that name. Raises ValueError if the name is taken."""

    def register(prepare: Callable[[Options], Plan]) -> Callable[[Options], Plan]:
        if name in _cases:
            raise ValueError(f"a case named {name!r} is registered already")
        _cases[name] = Case(name, about, prepare)
        return prepare

    return register


def list_cases() -> list[Case]:
    """All cases, in the order of registration."""
    return list(_cases.values())


def find_case(name: str) -> Case:
    """The case of that name. Raises ValueError with the nearest names for an unknown one."""
    if name not in _cases:
        near = difflib.get_close_matches(name, _cases)
        hint = f"did you mean {', '.join(near)}?" if near else "spimm bench --list names all"
        raise ValueError(f"unknown case {name!r}; {hint}")
    return _cases[name]
