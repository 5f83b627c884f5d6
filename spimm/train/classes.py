"""Whether data has the classes that a run was trained on: compared by name, not by number."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch

from spimm.data import ImageData, ImageSplit
from spimm.files import read_json
from spimm.train.place import DATA_FILE
from spimm.train.typed import from_json

logger = logging.getLogger("spimm.train")
NAMED = 5
"""Classes that a message names."""


@dataclass(frozen=True)
class _Names:
    """Of data.json; earlier versions wrote none."""

    class_names: list[str] | None = None


def run_classes(run: str | Path) -> tuple[str, ...] | None:
    """Names of the classes of the run in that folder, by number; None where it holds none. FileNotFoundError for no
    run."""
    path = Path(run) / DATA_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{run} holds no training run: it has no {DATA_FILE}")
    names = from_json(_Names, read_json(path), DATA_FILE, known_only=False).class_names
    return None if names is None else tuple(names)


def match_classes(data: ImageData, names: Sequence[str]) -> ImageData:
    """`data` with its labels by the numbers that `names`, those of a model's classes, give its classes.

    Another order, and fewer classes, are matched by name, which is said once. So is data that numbers its classes, or a
    model that does, whose order is believed. ValueError for classes that are not among `names`.
    """
    wanted, given = tuple(names), data.class_names
    if given == wanted:
        return data
    if not set(given) <= set(wanted):
        if len(given) <= len(wanted) and _numbered(given) != _numbered(wanted):
            _tell(data.name, "classes have names on one side alone: label k is taken for class k")
            return replace(data, class_names=wanted)
        unknown = [name for name in given if name not in wanted]
        raise ValueError(
            f"{data.name} has classes that the model was not trained on: {_some(unknown)}; it knows {_some(wanted)}.\n"
            "Give the classes the model's names, or train for these: spimm train RECIPE data=DATA init_from=RUN"
        )
    _tell(data.name, f"{len(given)} of the model's {len(wanted)} classes, matched by name")
    number = torch.tensor([wanted.index(name) for name in given])
    parts = {part: ImageSplit(split.images, number[split.labels]) for part, split in data.parts.items()}
    return replace(data, class_names=wanted, **parts)


def check_same_classes(data: ImageData, run: Path) -> None:
    """ValueError unless `data` has the classes, in their order, that the run in that folder has been trained on."""
    names = run_classes(run)
    if names is not None and names != data.class_names:
        raise ValueError(
            f"the run in {run} was trained on the classes {_some(names)}; {data.name} has {_some(data.class_names)}: "
            "a new run needs another out"
        )


def _numbered(names: Sequence[str]) -> bool:
    return list(names) == [str(number) for number in range(len(names))]


def _some(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


@cache
def _tell(name: str, what: str) -> None:
    logger.warning("%s: %s", name, what)
