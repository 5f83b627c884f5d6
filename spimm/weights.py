"""Weights on disk: safetensors files, written whole or not at all, loaded with every disagreement named."""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spimm.files import write_whole
from spimm.manifest import check_listed

logger = logging.getLogger(__name__)
_LISTED = 3


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Writes the state dict of the model to a safetensors file, by way of a temporary name. Returns the path."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return write_whole(path, lambda unfinished: save_file(tensors, unfinished))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills the model from a safetensors file.

    Raises FileNotFoundError, or ValueError for a truncated or foreign file, for one that is not as the manifest of its
    checkpoint has it, and for weights that do not fit (`load_state`). The model is unchanged then.
    """
    load_state(model, read_safetensors(Path(path)), str(path))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises FileNotFoundError, or ValueError for a truncated or foreign file, and
    for one that is not as the manifest of its checkpoint has it.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    check_listed(path)
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file whose checksum was compared. ValueError for a truncated or foreign file."""
    try:
        return load_file(path)
    except (SafetensorError, AttributeError, KeyError) as error:  # the last two for a number format torch lacks
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def load_state(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Fills the model from a state dict with exactly its keys, shapes and kinds of numbers, all of them finite.

    Else ValueError, which names the first differences; the model is unchanged then.
    """
    own = model.state_dict()
    check_fits(own, tensors, source, type(model).__name__)
    converted = {key: tensors[key].to(value.dtype) for key, value in own.items()}
    check_finite(converted, source)
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(converted[key])


def check_fits(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str, name: str) -> None:
    """ValueError unless `tensors`, from `source`, have the keys, shapes and kinds of numbers of `own`, which is that of
    `name`. Floats of 16, 32 and 64 bits fit each other; those of 8, integers, bool and complex numbers do not.
    """
    shared = [key for key in own if key in tensors]
    differences = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "wrong-shaped": [
            f"{key} {tuple(tensors[key].shape)}, expected {tuple(own[key].shape)}"
            for key in sorted(shared)
            if tensors[key].shape != own[key].shape
        ],
        "of another kind": [
            f"{key} {_dtype(tensors[key])}, expected {_dtype(own[key])}"
            for key in sorted(shared)
            if _kind(tensors[key]) != _kind(own[key])
        ],
    }
    if any(differences.values()):
        parts = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in differences.items() if keys]
        logger.debug("%s and %s differ: %s", source, name, differences)
        raise ValueError(f"{source} does not fit {name}; " + "; ".join(parts))


def check_finite(tensors: Mapping[str, Tensor], source: str) -> None:
    """ValueError, which names the first, if `tensors` hold NaN or infinity, as a training that failed leaves them."""
    held = {key: value for key, value in tensors.items() if not value.is_meta}
    counts = {key: int(value.numel() - value.isfinite().sum()) for key, value in held.items()}
    bad = [key for key, count in counts.items() if count]
    if bad:
        raise ValueError(
            f"{source} holds {sum(counts.values()):,} values that are not finite (NaN or infinity) in {len(bad)} of "
            f"{len(counts)} tensors, the first is {bad[0]}: take weights from before training failed"
        )


def _kind(tensor: Tensor) -> tuple[bool, ...]:
    floating, few_bits = tensor.is_floating_point(), tensor.dtype.itemsize < 2
    return floating, floating and few_bits, tensor.is_complex(), tensor.dtype == torch.bool


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _some(keys: list[str]) -> str:
    rest = len(keys) - _LISTED
    more = f" and {rest} more (SPIMM_LOG=debug lists all)" if rest > 0 else ""
    return ", ".join(key[:120] for key in keys[:_LISTED]) + more
