"""Chains of convolutions and norms as one convolution, exact up to the borders.

What stands so far in a chain is y = K * x + b with x padded by zeros. A value around y is zeros around x if K is 1x1
and the value is b, what the chain gives for zero input: so a zero-padded convolution merges with 1x1 ones in front of
it that have no bias, and with a norm in front of it if the border holds that norm's shift (RepConv of Yao et al. 2024,
Meta-SpikeFormer). All arithmetic is in float64.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import conv_transpose2d

from spimm.deploy.linear import Convolve, Pad, Pair, Scale, Step, linear_steps


@dataclass(frozen=True, eq=False)
class Chain:
    """One convolution: weight [O, I / groups, kH, kW], bias [O], and zeros around its input. None: nothing yet."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    convolutions: int = 0

    def then(self, step: Step) -> "Chain | None":
        """The chain with one step more, or None if the border then makes it more than a convolution."""
        if isinstance(step, Pad):
            return self._padded(step) if any(step.size) else self
        return self._scaled(step) if isinstance(step, Scale) else self._convolved(step)

    def _padded(self, step: Pad) -> "Chain | None":
        bias = torch.zeros((), dtype=torch.float64) if self.bias is None else self.bias
        value = torch.as_tensor(step.value, dtype=bias.dtype)
        pointwise = self.weight is None or self.weight[0, 0].numel() == 1
        if not pointwise or bool((value != bias).any()):
            return None
        rows, columns = (p + s * n for p, s, n in zip(self.padding, self.stride, step.size, strict=True))
        return replace(self, padding=(rows, columns))

    def _scaled(self, step: Scale) -> "Chain":
        if self.weight is None or self.bias is None:
            return replace(self, weight=step.gain.view(-1, 1, 1, 1), bias=step.shift, groups=len(step.gain))
        weight, bias = self.weight * step.gain.view(-1, 1, 1, 1), self.bias * step.gain + step.shift
        return replace(self, weight=weight, bias=bias)

    def _convolved(self, step: Convolve) -> "Chain":
        bias = step.weight.new_zeros(len(step.weight)) if step.bias is None else step.bias
        if self.weight is None or self.bias is None:
            settings = {"stride": step.stride, "dilation": step.dilation, "groups": step.groups}
            return replace(self, weight=step.weight, bias=bias, convolutions=1, **settings)
        groups = math.gcd(self.groups, step.groups)
        if (weight := self._beside_depthwise(step)) is not None:
            groups = self.groups if step.groups == len(step.weight) else step.groups
            return self._composed(weight, step, bias, groups)
        first = _regroup(_dilate(self.weight, self.dilation), self.groups, groups)
        second = _regroup(_dilate(step.weight, step.dilation), step.groups, groups)
        return self._composed(_compose(first, second, groups, self.stride), step, bias, groups)

    def _beside_depthwise(self, step: Convolve) -> Tensor | None:
        """The joint kernel where one of two kernels is depth-wise and the other 1x1: products, without a sum."""
        assert self.weight is not None
        first, second = _dilate(self.weight, self.dilation), _dilate(step.weight, step.dilation)
        if first[0, 0].numel() == 1 and self.stride == (1, 1) and second.shape[1] == 1 == len(second) // step.groups:
            return second * first
        if second[0, 0].numel() == 1 and first.shape[1] == 1 == len(first) // self.groups:
            middle = first.view(step.groups, -1, *first.shape[2:])
            return second * middle.repeat_interleave(len(second) // step.groups, 0)
        return None

    def _composed(self, weight: Tensor, step: Convolve, bias: Tensor, groups: int) -> "Chain":
        assert self.bias is not None
        rows = step.weight.sum((-2, -1)).unflatten(0, (step.groups, -1))
        return replace(
            self,
            weight=weight,
            bias=bias + (rows @ self.bias.view(step.groups, -1, 1)).flatten(),
            stride=(self.stride[0] * step.stride[0], self.stride[1] * step.stride[1]),
            dilation=(1, 1),
            groups=groups,
            convolutions=self.convolutions + 1,
        )


def _dilate(weight: Tensor, dilation: Pair) -> Tensor:
    """The same kernel with zeros in its gaps and dilation 1."""
    if dilation == (1, 1):
        return weight
    rows, columns = ((k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilation, strict=True))
    spread = weight.new_zeros(*weight.shape[:2], rows, columns)
    spread[:, :, :: dilation[0], :: dilation[1]] = weight
    return spread


def _regroup(weight: Tensor, groups: int, wanted: int) -> Tensor:
    """The same kernel in fewer groups, zeros between those joined. [O, I / groups, ...] -> [O, I / wanted, ...]."""
    joined, (out_chans, width, *kernel) = groups // wanted, weight.shape
    blocks = weight.new_zeros(wanted, joined, out_chans // groups, joined, width, *kernel)
    own = torch.arange(joined)
    blocks[:, own, :, own] = weight.view(wanted, joined, -1, width, *kernel).transpose(0, 1)
    return blocks.reshape(out_chans, joined * width, *kernel)


def _compose(first: Tensor, second: Tensor, groups: int, stride: Pair) -> Tensor:
    """Kernel of `second` behind `first`, which has this stride: K[a stride + u] sums second[a] first[u]."""
    if second[0, 0].numel() == 1 or (first[0, 0].numel() == 1 and stride == (1, 1)):  # products, many times as fast
        parts = (weight.unflatten(0, (groups, -1)) for weight in (second, first))
        kernel = torch.einsum("gomab,gmkcd->gokacbd", *parts)
        return kernel.flatten(5).flatten(3, 4).flatten(0, 1)
    grouped = second.unflatten(0, (groups, -1)).transpose(0, 1).flatten(1, 2)  # [O / groups, middle, kH, kW]
    kernel = conv_transpose2d(grouped, first, stride=stride, groups=groups)
    return kernel.unflatten(1, (groups, -1)).transpose(0, 1).flatten(0, 1)


def merge_convs(modules: Iterable[nn.Module], *, like: nn.Conv2d | None = None) -> nn.Conv2d:
    """One convolution, with bias, that does what these modules do in a row in eval mode, borders included.

    Modules are convolutions, batch norms, rows of them, and what `linear_steps` knows. The result has the class (with
    its settings) of `like`, by default the first convolution, whose dtype and device it has, and is channels-last.
    Raises ValueError, naming the module, for one that is not linear or that pads by other values than the chain in
    front of it gives for zero input, and where there is no convolution.
    """
    modules = list(modules)
    rows = split_chains(modules, like=like)
    if len(rows) > 1:
        odd = modules[len(rows[0].modules)]
        raise ValueError(f"{odd} cannot join the {len(rows[0].modules)} modules in front of it in one convolution")
    if not rows or rows[0].conv is None:
        raise ValueError(f"{modules} hold no chain of convolutions and batch norms")
    return rows[0].conv


class Row(NamedTuple):
    """Modules that one convolution stands for; without one, norms alone or a module that is not linear."""

    modules: list[nn.Module]
    conv: nn.Conv2d | None


@torch.no_grad()
def split_chains(modules: Iterable[nn.Module], *, like: nn.Conv2d | None = None) -> list[Row]:
    """The modules in order, cut into rows as long as one convolution can stand for; `like` as in merge_convs."""
    rows: list[tuple[list[nn.Module], Chain | None]] = []
    for module in modules:
        steps = linear_steps(module)
        longer = None if steps is None or not rows else _extend(rows[-1][1], steps)
        if longer is not None:
            rows[-1] = ([*rows[-1][0], module], longer)
        else:
            rows.append(([module], None if steps is None else _extend(Chain(), steps)))
    return [Row(row, _build(chain, row, like) if chain and chain.convolutions else None) for row, chain in rows]


def _extend(chain: Chain | None, steps: Iterable[Step]) -> Chain | None:
    for step in steps:
        chain = None if chain is None else chain.then(step)
    return chain


def _build(chain: Chain, row: Iterable[nn.Module], like: nn.Conv2d | None) -> nn.Conv2d:
    first = next(part for module in row for part in module.modules() if isinstance(part, nn.Conv2d))
    assert chain.weight is not None and chain.bias is not None
    out_chans, width, *kernel = chain.weight.shape
    dtype, training = first.weight.dtype, first.training
    conv = copy.copy(
        like or first
    )  # its class, whatever arguments that takes, and what it has set beside those of Conv2d
    nn.Conv2d.__init__(
        conv,
        width * chain.groups,
        out_chans,
        (kernel[0], kernel[1]),
        chain.stride,
        chain.padding,
        chain.dilation,
        chain.groups,
        device="meta",  # no memory, no random numbers
    )
    weight = chain.weight.to(dtype, copy=True, memory_format=torch.channels_last)
    conv.weight = nn.Parameter(weight, requires_grad=False)
    conv.bias = nn.Parameter(chain.bias.to(dtype, copy=True), requires_grad=False)
    return conv.train(training)
