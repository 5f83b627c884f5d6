"""Lets timm find our models: after `register_with_timm()`, `timm.create_model("qkformer_10_384")` builds ours."""

from collections.abc import Callable
from typing import Any

from torch import nn

from spimm.models.registry import create_model, list_models

__all__ = ["register_with_timm"]


def register_with_timm() -> list[str]:
    """Makes every registered model a timm entrypoint of the same name. Returns the names; may be called again.

    Raises ValueError if timm has another model of that name. Keyword arguments are those of `spimm.create_model`, and
    timm's `out_indices` with `features_only`. `pretrained=True` takes the weights that ship with spimm; ValueError for
    a model without any and for a tag behind the name (`name.tag`).
    """
    import timm.models

    names = list_models()
    for name in names:
        if timm.models.is_model(name):
            owner = timm.models.model_entrypoint(name).__module__
            if owner != __name__:
                raise ValueError(f"timm has a model named {name!r} already, from {owner}")
            continue
        entrypoint = _entrypoint(name)
        globals()[name] = entrypoint  # timm adds the name to this module's __all__
        timm.models.register_model(entrypoint)
    return names


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
        for cfg in (pretrained_cfg_overlay, pretrained_cfg):
            options = {**_shape_options(cfg), **options}
        if out_indices is None:
            return create_model(name, pretrained=pretrained, **options)
        if not options.pop("features_only", False):
            raise ValueError(f"out_indices is {out_indices}; it needs features_only=True")
        return create_model(name, pretrained=pretrained, features_only=True, out_indices=out_indices, **options)

    entrypoint.__name__ = entrypoint.__qualname__ = name
    entrypoint.__doc__ = f"spimm.create_model({name!r}) for timm."
    return entrypoint


def _shape_options(cfg: Any) -> dict[str, int]:
    """num_classes and in_chans as timm's configuration (a dict or a PretrainedCfg) states them."""
    stated = cfg.to_dict() if hasattr(cfg, "to_dict") else cfg or {}
    options = {"num_classes": stated["num_classes"]} if "num_classes" in stated else {}
    return options | ({"in_chans": stated["input_size"][0]} if "input_size" in stated else {})
