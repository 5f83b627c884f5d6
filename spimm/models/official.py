"""Weights in the authors' checkpoint formats: key maps, and models that reproduce the authors' outputs."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spimm.models import metaspikeformer_keys, qkformer_keys, ttfs_keys
from spimm.models.registry import create_model, model_card
from spimm.models.torch_files import read_torch_file
from spimm.weights import bare_names, load_state, read_safetensors


def _rows_of_head(tensors: Mapping[str, Tensor]) -> int | None:
    return len(tensors["head.weight"]) if "head.weight" in tensors else None


class OfficialFormat(NamedTuple):
    """How one family's published checkpoints are read."""

    key_map: Callable[[Any], dict[str, list[str]]]
    """Our key -> the authors' keys, whose tensors are joined along the first dimension in that order."""
    legacy_warning: str | None = None
    """What `legacy=True` reproduces, if there is anything."""
    num_classes: Callable[[Mapping[str, Tensor]], int | None] = _rows_of_head
    """Of the checkpoint's classifier, if it has one."""


FORMATS: dict[str, OfficialFormat] = {
    "qkformer": OfficialFormat(qkformer_keys.key_map, qkformer_keys.LEGACY_WARNING),
    "metaspikeformer": OfficialFormat(metaspikeformer_keys.key_map),
    "ttfs": OfficialFormat(ttfs_keys.key_map, num_classes=ttfs_keys.num_classes),
}

WRAPPERS = ("model", "state_dict", "module")
"""Keys of a checkpoint whose value is the dict of its tensors, or has it under another of these keys."""


def load_official(
    name: str,
    state_dict_or_path: Mapping[str, Tensor] | str | Path,
    *,
    num_steps: int | None = None,
    num_classes: int | None = None,
    legacy: bool = False,
    **options: Any,
) -> nn.Module:
    """The named model, in eval mode, with weights from a checkpoint in its authors' format and in their dtype.

    A path is read with `weights_only`; a checkpoint that wraps its weights under `model`, `state_dict` or `module` is
    unwrapped. `num_classes` defaults to what the checkpoint's classifier has. `legacy=True` reproduces the faults of
    the authors' code that their published numbers depend on, with a warning that says which. Raises ValueError for a
    checkpoint that does not fit, listing missing, unexpected and wrong-shaped keys, for a family whose format is not
    known, and for `legacy` where there is nothing to reproduce.
    """
    family = model_card(name).family
    if family not in FORMATS:
        raise ValueError(f"no published format is known for {family}; known ones are {', '.join(FORMATS)}")
    official = FORMATS[family]
    where = "" if isinstance(state_dict_or_path, Mapping) else f" ({state_dict_or_path})"
    source = f"the checkpoint for {name}{where}"
    tensors = _strip(_read(state_dict_or_path), source)
    if num_classes is None:
        num_classes = official.num_classes(tensors)
    if legacy:
        if official.legacy_warning is None:
            raise ValueError(f"legacy is True; the published code of {family} has no fault to reproduce")
        warnings.warn(official.legacy_warning, UserWarning, stacklevel=2)
        options["legacy"] = True
    if any(key.startswith("head_kd.") for key in tensors):
        options.setdefault("distillation", True)
    model = create_model(name, num_steps=num_steps, num_classes=num_classes, **options)
    floating = [value.dtype for value in tensors.values() if value.is_floating_point()]
    if floating:
        model = model.to(floating[0])
    load_state(model, _translate(model, tensors, official), source)
    return model.eval()


def official_keys(model: nn.Module, family: str) -> dict[str, list[str]]:
    """Our key -> the authors' keys that are joined to make it."""
    return FORMATS[family].key_map(model)


def _read(source: Mapping[str, Tensor] | str | Path) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source
    path = Path(source)
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    if not path.exists():
        raise FileNotFoundError(f"no checkpoint at {path}")
    return read_torch_file(path)


def _strip(tensors: Mapping[str, Any], source: str) -> dict[str, Tensor]:
    for _ in WRAPPERS:  # one within another, in any order
        tensors = next((tensors[key] for key in WRAPPERS if isinstance(tensors.get(key), Mapping)), tensors)
    foreign = [key for key, value in tensors.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if foreign:
        names = ", ".join(f"{key!r:.40}" for key in foreign[:3])
        raise ValueError(f"{source}: not all entries are tensors under a text: {len(foreign)} are not, such as {names}")
    return bare_names(tensors, source)


def _translate(model: nn.Module, tensors: dict[str, Tensor], official: OfficialFormat) -> dict[str, Tensor]:
    """The authors' tensors under our names and shapes; what has no place keeps its name, for the error to list."""
    own = model.state_dict()
    rest = dict(tensors)
    translated: dict[str, Tensor] = {}
    for key, theirs in official.key_map(model).items():
        parts = [rest.pop(name) for name in theirs if name in rest]
        if len(parts) < len(theirs):
            continue
        if len({part.shape[1:] for part in parts}) > 1:
            shapes = ", ".join(f"{name} {tuple(part.shape)}" for name, part in zip(theirs, parts, strict=True))
            raise ValueError(
                f"wrong-shaped keys of the checkpoint, which should differ in the first size only: {shapes}"
            )
        joined = torch.cat(parts) if len(parts) > 1 and parts[0].dim() else parts[0]
        if joined.dim() < own[key].dim() and joined.numel() == own[key].numel():
            joined = joined.reshape(own[key].shape)  # Conv1d weights [O, I, 1] of 1x1 convolutions
        translated[key] = joined
    return {**translated, **rest}
