"""What layers without a neuron are made of: `Pad`, `Convolve` and `Scale`, as float64 tensors.

C channels, O and I channels of a convolution's output and input.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spimm.layers import BranchConv2d
from spimm.layers.norm import is_frozen

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Pad:
    """`value`, a number or [C], around the map: size[0] rows and size[1] columns on either side."""

    size: Pair
    value: Tensor | float = 0.0


@dataclass(frozen=True, eq=False)
class Convolve:
    """A convolution without padding. weight: [O, I / groups, kH, kW], bias: [O] or none."""

    weight: Tensor
    bias: Tensor | None
    stride: Pair
    dilation: Pair
    groups: int


@dataclass(frozen=True, eq=False)
class Scale:
    """gain y + shift, each [C]."""

    gain: Tensor
    shift: Tensor


Step = Pad | Convolve | Scale


def norm_scale(norm: Any) -> Scale:
    """What a batch norm does in eval mode; its shift is also what it gives for zero input."""
    assert norm.running_mean is not None and norm.running_var is not None
    gain, shift = torch.rsqrt(norm.running_var.double() + norm.eps), torch.zeros_like(norm.running_var).double()
    if norm.weight is not None:
        gain = norm.weight.double() * gain
    if norm.bias is not None:
        shift = norm.bias.double()
    return Scale(gain, shift - norm.running_mean.double() * gain)


@functools.singledispatch
def linear_steps(module: nn.Module) -> tuple[Step, ...] | None:
    """The steps that a module with 4-D input does in eval mode; None if it is anything but a row of such steps.

    A new linear layer is made known by registering it:

        @linear_steps.register
        def _(module: MyPaddedNorm) -> tuple[Step, ...]: ...
    """
    return (norm_scale(module),) if is_frozen(module) else None


@linear_steps.register
def _(module: nn.Conv2d) -> tuple[Step, ...] | None:
    if module.padding_mode != "zeros":
        return None
    bias = None if module.bias is None else module.bias.double()
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    return Pad(_padding(module)), Convolve(module.weight.double(), bias, stride, dilation, module.groups)


@linear_steps.register
def _(module: BranchConv2d) -> tuple[Step, ...] | None:
    """Branches are summed behind their kernels, which no step does."""
    return None


def _pair(values: Sequence[int]) -> Pair:
    return values[0], values[1]


def _padding(conv: nn.Conv2d) -> Pair:
    if not isinstance(conv.padding, str):
        return _pair(conv.padding)
    if conv.padding == "valid":
        return 0, 0
    total = [d * (k - 1) for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    if any(size % 2 for size in total):
        raise ValueError(f"{conv} pads one side more than the other, which no single convolution does")
    return total[0] // 2, total[1] // 2


@linear_steps.register(nn.BatchNorm2d)
@linear_steps.register(nn.SyncBatchNorm)
def _(module: nn.BatchNorm2d | nn.SyncBatchNorm) -> tuple[Step, ...]:
    return (norm_scale(module),)


@linear_steps.register
def _(module: nn.Identity) -> tuple[Step, ...]:
    return ()


@linear_steps.register
def _(module: nn.Sequential) -> tuple[Step, ...] | None:
    found = [linear_steps(part) for part in module] if is_row(module) else [None]
    rows = [steps for steps in found if steps is not None]
    return tuple(itertools.chain(*rows)) if len(rows) == len(found) else None


def is_row(module: nn.Sequential) -> bool:
    """Whether it calls its modules one after the other; a subclass may do anything."""
    return type(module).forward is nn.Sequential.forward
