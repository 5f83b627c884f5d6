"""Models with weights of few bits (`layers.quantised` has the equation), and the files that hold them.

Convolutions and linear layers, whatever their class, are quantised; biases, norms and all else stay as they are. A
network with batch norms is folded first (`fold`): the kernels of a chip are the folded ones. Folding multiplies each
output channel, which keeps levels with a scale for each channel, but not those with one for the layer.
"""

import copy
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from spimm.files import write_whole
from spimm.layers import Per, QuantisedWeight, quantised_weights, set_quantised
from spimm.weights import load_state, read_safetensors

FORMAT = "spimm-quantised-1"
PACKED_BITS = 4
"""Levels of so many bits or fewer are stored two to a byte."""


def quantise(model: nn.Module, bits: int = 4, per: Per = "layer") -> nn.Module:
    """A copy, with the same modules and keys, whose convolutions and linear layers hold quantised weights.

    Raises ValueError for bits other than 2 to 8, another `per`, and weights that are not finite (naming them).
    """
    copied = copy.deepcopy(model)
    set_quantised(copied, bits, per)
    return copied


class Sizes(NamedTuple):
    """Bytes of a model's parameters and buffers."""

    before: int
    after: int
    """With quantised weights, as `save_quantised` stores them."""


def quantised_sizes(model: nn.Module, bits: int = 4, per: Per = "layer") -> Sizes:
    """The sizes of `model` and of what `save_quantised` writes, but for the file's header."""
    stored = _stored(model, quantised_weights(model, bits, per))
    before, after = (sum(tensor.nbytes for tensor in held.values()) for held in (model.state_dict(), stored))
    return Sizes(before, after)


def save_quantised(model: nn.Module, path: str | Path, *, bits: int = 4, per: Per = "layer") -> Path:
    """Writes the model with quantised weights to a safetensors file, whole or not at all. Returns the path.

    A weight of 4 bits or fewer is stored two levels to a byte, the first in the low half, else one to a byte; its peak
    under the same key with `.peak`; all else as it is. A model that `quantise` gave is stored exactly.
    """
    weights = quantised_weights(model, bits, per)
    shapes = {key: list(weight.levels.shape) for key, weight in weights.items()}
    about = {"format": FORMAT, "bits": str(bits), "per": per, "shapes": json.dumps(shapes)}
    return write_whole(path, lambda unfinished: save_file(_stored(model, weights), unfinished, metadata=about))


def load_quantised(model: nn.Module, path: str | Path) -> None:
    """Fills `model` with the weights, dequantised, that `save_quantised` wrote.

    Raises FileNotFoundError, or ValueError for a truncated or foreign file and for keys that are missing, unexpected or
    of another shape (each listed). The model is unchanged then.
    """
    path = Path(path)
    tensors = read_safetensors(path)
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
    if about.get("format") != FORMAT:
        raise ValueError(f"{path} holds no quantised weights: format is {about.get('format')!r}, wanted {FORMAT!r}")
    try:
        bits, shapes = int(about["bits"]), json.loads(about["shapes"])
        for key, shape in shapes.items():
            levels = _unpack(tensors.pop(key), f"{path}: {key}", torch.Size(shape), bits)
            tensors[key] = QuantisedWeight(levels, tensors.pop(f"{key}.peak"), bits).dequantise()
    except KeyError as error:
        raise ValueError(f"{path} is damaged: it has no {error}") from error
    load_state(model, tensors, str(path))


def _stored(model: nn.Module, weights: dict[str, QuantisedWeight]) -> dict[str, Tensor]:
    tensors = {key: value.detach() for key, value in model.state_dict().items() if key not in weights}
    for key, weight in weights.items():
        tensors |= {key: _pack(weight.levels, weight.bits), f"{key}.peak": weight.peak}
    return {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}


def _pack(levels: Tensor, bits: int) -> Tensor:
    """int8 of any shape -> one axis: uint8 with two levels in two's complement each, or int8 for more than 4 bits."""
    flat = levels.flatten()
    if bits > PACKED_BITS:
        return flat
    halves = nn.functional.pad(flat, (0, flat.numel() % 2)).view(torch.uint8) & 0xF
    return halves[::2] | halves[1::2] << 4


def _unpack(packed: Tensor, name: str, shape: torch.Size, bits: int) -> Tensor:
    """The levels that `_pack` packed."""
    wanted = shape.numel() if bits > PACKED_BITS else -(-shape.numel() // 2)
    if packed.numel() != wanted:
        raise ValueError(f"{name} has {packed.numel()} bytes; wanted {wanted} for {tuple(shape)} in {bits} bits")
    if bits > PACKED_BITS:
        return packed.view(shape)
    halves = torch.stack([packed & 0xF, packed >> 4], 1).flatten()[: shape.numel()]
    return ((halves ^ 8).view(torch.int8) - 8).view(shape)
