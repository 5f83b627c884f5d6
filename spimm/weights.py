"""Weights on disk: safetensors files, written whole or not at all, loaded with every disagreement named."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from spimm.files import write_whole

_LISTED = 8


def save_weights(model: nn.Module, path: str | Path) -> Path:
    """Writes the state dict of the model to a safetensors file, by way of a temporary name. Returns the path."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    return write_whole(path, lambda unfinished: save_file(tensors, unfinished))


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fills the model from a safetensors file.

    Raises FileNotFoundError, or ValueError for a truncated or foreign file and for keys that are missing, unexpected or
    of another shape (each listed). The model is unchanged then.
    """
    load_state(model, read_safetensors(Path(path)), str(path))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU. Raises FileNotFoundError, or ValueError for a truncated or foreign file."""
    if not path.is_file():
        raise FileNotFoundError(f"no weights file at {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a whole safetensors file: {error}") from error


def load_state(model: nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Fills the model from a state dict with exactly its keys and shapes, else ValueError lists the differences."""
    own = model.state_dict()
    differences = {
        "missing": sorted(own.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - own.keys()),
        "wrong-shaped": [
            f"{key} {tuple(tensors[key].shape)}, wanted {tuple(own[key].shape)}"
            for key in sorted(own.keys() & tensors.keys())
            if tensors[key].shape != own[key].shape
        ],
    }
    if any(differences.values()):
        parts = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in differences.items() if keys]
        raise ValueError(f"{source} does not fit {type(model).__name__}; " + "; ".join(parts))
    with torch.no_grad():
        for key, value in own.items():
            value.copy_(tensors[key])


def _some(keys: list[str]) -> str:
    rest = len(keys) - _LISTED
    return ", ".join(keys[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
