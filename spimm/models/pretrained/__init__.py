"""Trained weights that ship inside the package: NAME.safetensors beside this file, and what they are in cards.json."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from safetensors.torch import load
from torch import nn

from spimm.files import write_text
from spimm.models.registry import ModelCard
from spimm.weights import load_state, logger, save_weights

FOLDER = resources.files(__name__)
CARDS_FILE = "cards.json"


@dataclass(frozen=True)
class Shipped:
    """The weights of one model: how they were trained, and what they reach."""

    data: str
    """Data set, see spimm.data.load_data."""
    top1: float
    """Per cent of its test images."""
    recipe: str
    """Name of the training recipe, with what was changed of it."""
    seed: int
    sha256: str
    """Of the whole file."""


def shipped() -> dict[str, Shipped]:
    """Model name -> its weights, sorted by name."""
    cards = json.loads((FOLDER / CARDS_FILE).read_text(encoding="utf-8"))
    return {name: Shipped(**card) for name, card in sorted(cards.items())}


def shipped_weights(name: str) -> Shipped:
    """What the weights of that model are. ValueError where none ship, which names the models that have some."""
    cards = shipped()
    if name not in cards:
        raise ValueError(
            f"no weights ship for {name!r}, only for: {', '.join(cards) or 'no model'}; spimm.load_weights reads those "
            "of a file, spimm.load_official an authors' checkpoint"
        )
    return cards[name]


def shipped_file(name: str) -> Path | None:
    """Where the weights of that model are; None where none ship."""
    return Path(str(FOLDER / _file_name(name))) if name in shipped() else None


def build_pretrained(
    card: ModelCard, build: Callable[..., nn.Module], sizes: Mapping[str, int], options: Mapping[str, Any]
) -> nn.Module:
    """The model `build(**sizes, **options)` with the weights that ship for it; num_classes 0 leaves out the classifier.

    For other classes than those of its card the classifier is new, which is logged. ValueError for a model without
    shipped weights, for other channels than those of its card, and for a file that is cut short or is not the one its
    SHA-256 was taken of.
    """
    weights = shipped_weights(card.name)
    classes, channels = card.num_classes, card.input_size[0]
    if sizes.get("in_chans", channels) != channels:
        raise ValueError(f"in_chans is {sizes['in_chans']}; the weights that ship for {card.name!r} take {channels}")
    pool = options.get("global_pool")
    model = build(
        **{**sizes, "num_classes": classes}, **{**options, **({} if pool is None else {"global_pool": "avg"})}
    )
    path = FOLDER / _file_name(card.name)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise ValueError(f"{path} is cut short or was changed: its SHA-256 is not the one in {CARDS_FILE}")
    load_state(model, load(content), str(path))
    chosen = sizes.get("num_classes", classes)
    if chosen != classes or pool == "":
        model.reset_classifier(chosen, pool)  # type: ignore[operator]
    if chosen not in (0, classes):
        logger.warning(f"{card.name}: the head of {classes} classes left out; the one of {chosen} classes is new")
    return model


def ship(model: nn.Module, name: str, folder: Path, *, data: str, top1: float, recipe: str, seed: int) -> Path:
    """Writes the weights of `model`, trained under `name`, and their card into `folder`: this package's own in a
    checkout. Returns the path of the weights.
    """
    path = save_weights(model, folder / _file_name(name))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    cards_file = folder / CARDS_FILE
    cards = json.loads(cards_file.read_text(encoding="utf-8")) if cards_file.exists() else {}
    cards[name] = asdict(Shipped(data=data, top1=top1, recipe=recipe, seed=seed, sha256=digest))
    write_text(cards_file, json.dumps(cards, indent=2, sort_keys=True) + "\n")
    return path


def _file_name(name: str) -> str:
    return f"{name}.safetensors"
