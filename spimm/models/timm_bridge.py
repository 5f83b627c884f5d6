"""Lets timm find our models: after `register_with_timm()`, `timm.create_model("qkformer_10_384")` builds ours."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from spimm.layers import DCL, HSL, DirectCode, MixedMBPL, PixelCode, PSPLinear, Readout, SerialRL, TTFSUnit
from spimm.models.data_config import card_config, model_config
from spimm.models.hierarchy import Stage
from spimm.models.image_model import ImageModel
from spimm.models.registry import create_model, list_models, model_card
from spimm.neurons import MultiLIF, Neuron

LEAVES = (Stage, Neuron, MultiLIF, SerialRL, HSL, DCL, MixedMBPL, DirectCode, PixelCode, TTFSUnit, PSPLinear, Readout)
"""One node each in the graphs that timm traces with torch.fx."""
__all__ = ["register_with_timm"]
default_cfgs: dict[str, Any] = {}
"""timm's DefaultCfg of each name; timm reads them here."""


def register_with_timm() -> list[str]:
    """Makes every registered model a timm entrypoint of the same name. Returns the names; may be called again.

    Raises ValueError if timm has another model of that name. Keyword arguments are those of `spimm.create_model` and
    those that timm's scripts pass: drop_rate, drop_path_rate, global_pool, img_size, bn_momentum, bn_eps, out_indices
    and feature_cls with `features_only`. `pretrained=True` takes the weights that ship with spimm, or the .safetensors
    file that the configuration names; ValueError for a model without any and for a tag behind the name (`name.tag`).
    The models are `batch_first`, see ImageModel; in graphs that timm traces with torch.fx each stage is a node.
    """
    import timm.models

    for leaf in LEAVES:
        timm.models.register_notrace_module(leaf)
    names = list_models()
    for name in names:
        if timm.models.is_model(name):
            owner = timm.models.model_entrypoint(name).__module__
            if owner != __name__:
                raise ValueError(f"timm has a model named {name!r} already, from {owner}")
            continue
        entrypoint = _entrypoint(name)
        globals()[name] = entrypoint  # timm adds the name to this module's __all__
        default_cfgs.update(timm.models.generate_default_cfgs({name: _registered_config(name)}))
        timm.models.register_model(entrypoint)
    return names


def _registered_config(name: str) -> dict[str, Any]:
    from spimm.models.pretrained import shipped_file

    file = shipped_file(name)
    return card_config(model_card(name)) | ({} if file is None else {"file": str(file)})


def _entrypoint(name: str) -> Callable[..., nn.Module]:
    def entrypoint(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: Any = None,
        cache_dir: Any = None,
        out_indices: Any = None,
        **options: Any,
    ) -> nn.Module:
        if isinstance(pretrained_cfg, str):
            raise ValueError(f"{name!r} has no weights called {pretrained_cfg!r}; those that ship have no tag")
        stated: dict[str, Any] = {}
        for cfg in (pretrained_cfg, pretrained_cfg_overlay):
            stated |= cfg.to_dict() if hasattr(cfg, "to_dict") else cfg or {}
        options = {**_shape_options(stated), **options}
        if pretrained and stated.get("file"):
            pretrained = False
            options["weights"] = stated["file"]
        if out_indices is not None and not options.get("features_only"):
            raise ValueError(f"out_indices is {out_indices}; it needs features_only=True")
        return _build(name, pretrained=pretrained, out_indices=out_indices, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"spimm.create_model({name!r}) for timm."
    return entrypoint


def _shape_options(stated: dict[str, Any]) -> dict[str, int]:
    """num_classes and in_chans as timm's configuration states them; fewer than 0 classes state none."""
    options = {"num_classes": stated["num_classes"]} if stated.get("num_classes", -1) >= 0 else {}
    return options | ({"in_chans": stated["input_size"][0]} if "input_size" in stated else {})


def _build(
    name: str,
    *,
    img_size: int | tuple[int, int] | None = None,
    drop_path_rate: float = 0.0,
    bn_momentum: float | None = None,
    bn_eps: float | None = None,
    feature_cls: str = "getter",
    device: Any = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> nn.Module:
    """The model, from timm's names for its options."""
    if feature_cls not in ("getter", "list"):
        raise ValueError(f"feature_cls is {feature_cls!r}; maps come in a list here, expected getter or list")
    card, side = model_card(name), _side(img_size)
    if side is not None and card.fixed_size:
        options["image_size"] = side
    if drop_path_rate and card.family == "ttfs":
        raise ValueError(f"drop_path_rate is {drop_path_rate}; {name} has no residual branches, leave it out")
    if drop_path_rate:
        options["drop_path"] = drop_path_rate
    with nullcontext() if device is None else torch.device(device):
        model = create_model(name, **options).to(dtype=dtype)
    if side is not None and isinstance(model, ImageModel):
        model.pretrained_cfg = model_config(card, model, side)
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    for label, attribute, value in (("bn_momentum", "momentum", bn_momentum), ("bn_eps", "eps", bn_eps)):
        if value is not None and not norms:
            raise ValueError(f"{label} is {value}; {name} has no batch norm, leave it out")
        for norm in norms if value is not None else ():
            setattr(norm, attribute, value)
    if isinstance(model, ImageModel):
        model.batch_first = True
    return model


def _side(img_size: int | tuple[int, int] | None) -> int | None:
    sides = {img_size} if isinstance(img_size, int) or img_size is None else set(img_size)
    if len(sides) > 1:
        raise ValueError(f"img_size is {img_size}; expected a square")
    return sides.pop()
