"""Both products of a layer of spike times in plain torch: the truth that every backend is tested against."""

import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear


def psp_conv2d(spikes: Tensor, weight: Tensor, padding: int) -> Tensor:
    """Convolution of every plane; none but the first is differentiated. [P, N, C, H, W] -> [P, N, C', H', W']."""
    return torch.stack([conv2d(plane, weight, padding=padding) for plane in _planes(spikes)])


def psp_linear(spikes: Tensor, weight: Tensor) -> Tensor:
    """Product of every plane; none but the first is differentiated. [P, N, F] -> [P, N, F']."""
    return torch.stack([linear(plane, weight) for plane in _planes(spikes)])


def _planes(spikes: Tensor) -> list[Tensor]:
    return [spikes[0], *spikes[1:].detach()]
