"""Rebuilds, from the list of keys in a golden file, the weights, the input and the loss behind its figures (float64).

A golden file holds figures of the authors' own network. Each tensor is drawn from a generator seeded with the name of
its key, so that the file itself needs no weights.
"""

import functools
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor


def load(name: str) -> dict[str, Any]:
    """The golden file of that name in this folder."""
    return json.loads((Path(__file__).parent / f"{name}.json").read_text())


def state_dict(golden: dict[str, Any], dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Weights under the authors' keys, rounded to `dtype`."""
    draw = functools.partial(_drawn_slanted, gain=golden["gain"]) if "gain" in golden else _tensor
    tensors = {key: draw(key, tuple(shape), golden["seed"]) for key, shape in golden["keys"].items()}
    return {key: x.to(dtype) if x.is_floating_point() else x for key, x in tensors.items()}


def _tensor(key: str, shape: tuple[int, ...], seed: int) -> Tensor:
    rng = np.random.default_rng([zlib.crc32(key.encode()), seed])
    if key.endswith("num_batches_tracked"):
        return torch.tensor(100)
    if key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith("running_mean"):
        values = rng.normal(0, 0.3, shape)
    elif len(shape) >= 2:
        values = rng.normal(0, 1, shape) * (2.0 / int(np.prod(shape[1:]))) ** 0.5 * 1.5
    elif key.endswith("weight"):
        values = rng.uniform(0.7, 1.7, shape)
    else:
        values = rng.normal(0.1, 0.3, shape)
    return torch.as_tensor(values).reshape(shape)


def _drawn_slanted(key: str, shape: tuple[int, ...], seed: int, *, gain: float) -> Tensor:
    """Weights of networks without norms, with a small positive mean."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), seed])
    inputs = int(np.prod(shape[1:]))
    return torch.as_tensor(rng.normal(0, 1, shape) * (2.0 / inputs) ** 0.5 * gain + 0.3 / inputs)


def model_input(golden: dict[str, Any]) -> Tensor:
    """Images of golden["input_shape"]."""
    return torch.as_tensor(np.random.default_rng([7, golden["seed"]]).normal(0, 1, tuple(golden["input_shape"])))


def loss_weights(golden: dict[str, Any], logits: Tensor) -> Tensor:
    """Gradients in the file are those of (logits * loss_weights).sum()."""
    return torch.as_tensor(np.random.default_rng([11, golden["seed"]]).normal(0, 1, tuple(logits.shape)))
