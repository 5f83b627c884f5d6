"""Names of models: register, create, list, and the card that says what a name stands for."""

import difflib
import fnmatch
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from spimm.models.data_config import model_config
from spimm.models.settings import ImageConfig, changed
from spimm.weights import load_weights, mark_untrained, say_untrained


@dataclass(frozen=True)
class ModelCard:
    """What a model's name promises; a test builds every model and checks it."""

    name: str
    family: str
    paper: str
    """Citation with address."""
    params: int
    """Parameters with the default classes and channels."""
    input_size: tuple[int, int, int]
    """(C, H, W) of one step."""
    num_classes: int
    num_steps: int
    recipe: str | None = None
    """Name of the training recipe, see spimm.train.list_recipes."""
    events: bool = False
    """Takes sequences of event frames [B, T, C, H, W]."""
    note: str = ""
    unit_input: bool = False
    """Takes pixels in [0, 1], not standardised ones."""
    fixed_size: bool = False
    """Takes images only of the size that it is built for."""


class Variant(NamedTuple):
    """One name of a family: its configuration, parameters, side of its images in pixels, recipe, note, unit_input."""

    config: ImageConfig
    params: int
    size: int
    recipe: str | None
    note: str
    unit_input: bool = False


Builder = Callable[..., nn.Module]
_models: dict[str, tuple[ModelCard, Builder]] = {}


def register_model(card: ModelCard, build: Builder) -> None:
    """Makes `create_model(card.name)` call `build(**options)`. Raises ValueError if the name is taken."""
    if card.name in _models:
        raise ValueError(f"a model named {card.name!r} is registered already")
    _models[card.name] = (card, build)


def register_variants(
    family: str, paper: str, model: Callable[[Any], nn.Module], variants: Mapping[str, Variant]
) -> None:
    """Registers each name: `create_model(name, **options)` builds `model` from its configuration with the options."""

    def build(config: ImageConfig, **options: Any) -> nn.Module:
        return model(changed(config, model.__name__, options))

    for name, variant in variants.items():
        config = variant.config
        card = ModelCard(
            name=name,
            family=family,
            paper=paper,
            params=variant.params,
            input_size=(config.in_chans, variant.size, variant.size),
            num_classes=config.num_classes,
            num_steps=config.num_steps,
            recipe=variant.recipe,
            events=config.in_chans == 2,
            note=variant.note,
            unit_input=variant.unit_input,
            fixed_size=hasattr(config, "image_size"),
        )
        register_model(card, partial(build, config))


def _find(name: str) -> tuple[ModelCard, Builder]:
    if name not in _models:
        near = difflib.get_close_matches(name, _models, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "see spimm.list_models()"
        raise ValueError(f"unknown model {name!r}; {hint}")
    return _models[name]


def model_card(name: str) -> ModelCard:
    """The card of a model. Raises ValueError with the nearest names for an unknown one."""
    return _find(name)[0]


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Sorted names that match a shell-style pattern, e.g. `qkformer*`; with `pretrained` those whose weights ship."""
    names = sorted(name for name in _models if fnmatch.fnmatchcase(name, pattern))
    if not pretrained:
        return names
    from spimm.models.pretrained import shipped

    return [name for name in names if name in shipped()]


def create_model(
    name: str,
    *,
    num_classes: int | None = None,
    num_steps: int | None = None,
    in_chans: int | None = None,
    pretrained: bool = False,
    weights: str | Path | None = None,
    features_only: bool = False,
    out_indices: Sequence[int] | int | None = None,
    per_step: bool = False,
    **options: Any,
) -> nn.Module:
    """The model of that name, with random weights, those that ship with spimm (`pretrained`), or those of a safetensors
    file `weights`.

    num_classes 0 leaves out the classifier; None takes the card's values. Weights with a classifier of other classes
    than the `num_classes` asked for leave the new classifier as it is, which is logged. `options` are the family's own
    (for QKFormer the fields of QKFormerConfig). `features_only` returns the feature maps of the stages instead of
    logits: those of `out_indices` (all, the last n, or by number), the mean over time or `per_step`; the model has
    nothing else then. Raises ValueError for unknown names, options and values, naming what is known.
    """
    card, build = _find(name)
    if pretrained and weights is not None:
        raise ValueError(f"weights is {str(weights)!r} and pretrained is True; wanted one of the two")
    least = {"num_classes": 0, "num_steps": 1, "in_chans": 1}
    chosen = {"num_classes": num_classes, "num_steps": num_steps, "in_chans": in_chans}
    for label, value in chosen.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise ValueError(f"{label} must be a whole number, got {value!r}")
        if value is not None and value < least[label]:
            raise ValueError(f"{label} is {value}; wanted at least {least[label]}")
    sizes = {key: value for key, value in chosen.items() if value is not None}
    if pretrained:
        from spimm.models.pretrained import build_pretrained

        model = build_pretrained(card, build, sizes, options)
    else:
        model = build(**sizes, **options)
        mark_untrained(model, "weights")
    if weights is not None:
        load_weights(model, weights, new_head=num_classes is not None)
    model.__dict__["pretrained_cfg"] = model_config(card, model)
    if features_only:
        say_untrained(model, name)
        return model.features_only(out_indices, per_step=per_step)  # type: ignore[operator]
    if out_indices is not None or per_step:
        raise ValueError(f"out_indices={out_indices} and per_step={per_step} are for features_only=True")
    return model
