"""Convolution in plain torch: the truth, and what runs wherever the input is not sparse."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference


def spike_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
    """x: [N, C, H, W], weight: [C', C, k, k], bias: [C'] or None -> [N, C', H', W']."""
    return conv2d(x, weight, bias, stride, padding)


def spike_conv2d_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dynamics: Dynamics,
    num_steps: int,
    padding: int,
    added: Tensor | None,
    *,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """LIF(convolution) + added. x: [T or 1, B, C, H, W] -> [T, B, C', H', W']."""
    z = conv2d(x.flatten(0, 1), weight, bias, padding=padding).unflatten(0, x.shape[:2])
    compute = torch.promote_types(z.dtype, torch.float32)
    spikes, _ = lif_reference.lif(z.to(compute), dynamics, num_steps=num_steps, fire=fire)
    return spikes.to(x.dtype) if added is None else spikes.to(x.dtype) + added
