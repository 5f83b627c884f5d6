"""The two forms of a chain of convolutions in inference, one dense convolution or the chain itself, and their costs.

The first convolution of a chain sees spikes, which cause additions; the others see real values and multiply. A dense
form has many more weights, all of them behind spikes: it is cheaper where few neurons fire or a multiplication is dear.
"""

import copy
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.table import Table
from torch import nn

from spimm.deploy.linear import Pad, Step, linear_steps, norm_scale
from spimm.deploy.merge import merge_convs
from spimm.layers import BranchConv2d, ConvUnit, RepConv

Merge = Literal["dense", "split", "cheaper"]
RATE = 0.2
"""Firing rate assumed where none is given."""


class Split(nn.Sequential):
    """Convolutions in a row that stay apart."""


@dataclass(frozen=True)
class MergeCost:
    """Weights that one place of the output needs, in both forms of a unit's chain."""

    name: str
    dense: int
    """Of the dense convolution, all behind spikes."""
    split_additions: int
    """Of the chain's first convolution."""
    split_multiplications: int
    """Of the others."""
    rate: float
    """Firing rate in front of the chain."""
    mac_cost: float
    """Additions that a multiply-accumulate is worth."""

    @property
    def dense_cost(self) -> float:
        """Additions per place of the output."""
        return self.rate * self.dense

    @property
    def split_cost(self) -> float:
        """Additions per place of the output, multiplications counted as `mac_cost` of them."""
        return self.rate * self.split_additions + self.mac_cost * self.split_multiplications

    @property
    def cheaper(self) -> Merge:
        return "dense" if self.dense_cost <= self.split_cost else "split"


def merge_costs(model: nn.Module, *, rate: float = RATE, mac_cost: float = 1.0) -> list[MergeCost]:
    """What both forms of each chain of convolutions in the model cost; units of one convolution are left out.

    rate: spikes per input of a chain. mac_cost: 1 on a processor that multiplies as fast as it adds; 4.6 / 0.9 in
    energy at 45 nm. Raises ValueError for a rate outside [0, 1] or a negative cost.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; wanted spikes per input, from 0 to 1")
    if not mac_cost >= 0:
        raise ValueError(f"mac_cost is {mac_cost}; wanted 0 or more additions")
    costs = []
    for name, unit in model.named_modules():
        chain = chain_of(unit.conv) if isinstance(unit, ConvUnit) else []
        if len(chain) > 1:
            first, *others = (conv.weight.numel() for conv in chain)
            costs.append(MergeCost(name, _dense_weights(chain), first, sum(others), rate, mac_cost))
    return costs


def _dense_weights(chain: list[nn.Conv2d]) -> int:
    """Of the one convolution that stands for convolutions of stride 1."""
    reach = [sum(conv.kernel_size[axis] - 1 for conv in chain) for axis in (0, 1)]
    groups = math.gcd(*(conv.groups for conv in chain))
    return chain[0].in_channels // groups * chain[-1].out_channels * (reach[0] + 1) * (reach[1] + 1)


def cost_table(costs: Sequence[MergeCost]) -> Table:
    """One row a chain, for a terminal: the weights and the costs of both forms."""
    caption = f"additions per place of the output at rate {costs[0].rate}, a multiplication as {costs[0].mac_cost}"
    table = Table(title="rows of convolutions: one dense convolution, or split", caption=caption)
    table.add_column("unit", no_wrap=True)
    for heading in ("weights dense", "split", "cost dense", "split", "cheaper"):
        table.add_column(heading, justify="right")
    for cost in costs:
        weights = f"{cost.dense:,}", f"{cost.split_additions + cost.split_multiplications:,}"
        table.add_row(cost.name, *weights, f"{cost.dense_cost:,.0f}", f"{cost.split_cost:,.0f}", cost.cheaper)
    return table


def choose_forms(model: nn.Module, merge: Merge, *, rate: float, mac_cost: float) -> None:
    """Puts the split form where it is wanted, in place; chains left as they are become dense.

    Raises ValueError for an unknown `merge`.
    """
    if merge not in ("dense", "split", "cheaper"):
        raise ValueError(f"merge is {merge!r}; wanted dense, split or cheaper")
    for cost in merge_costs(model, rate=rate, mac_cost=mac_cost):
        if merge == "split" or (merge == "cheaper" and cost.cheaper == "split"):
            unit: Any = model.get_submodule(cost.name)
            unit.conv = Split(*split_convs(unit.conv))


@functools.singledispatch
def chain_of(module: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a chain in order; empty for a module that is none."""
    return []


@chain_of.register
def _(module: nn.Sequential) -> list[nn.Conv2d]:
    convs = [part for part in module if isinstance(part, nn.Conv2d) and not isinstance(part, BranchConv2d)]
    return convs if len(convs) == len(module) else []


@chain_of.register
def _(module: RepConv) -> list[nn.Conv2d]:
    return [module.expand, module.depthwise, module.project]


@functools.singledispatch
def split_convs(module: nn.Module) -> list[nn.Conv2d]:
    """Convolutions, zero-padded or not padded, that do in a row what the module does in eval mode.

    Norms are gone into them; empty for a module that is no chain.
    """
    return chain_of(module)


@split_convs.register
@torch.no_grad()
def _(module: RepConv) -> list[nn.Conv2d]:
    """With the shift of the first norm left out, zeros surround its map; behind the next convolution it is a bias."""
    scale, expand, inner = norm_scale(module.expand_norm), copy.deepcopy(module.expand), module.depthwise
    expand.weight.mul_(scale.gain.view(-1, 1, 1, 1))
    depthwise = nn.Conv2d(inner.in_channels, inner.out_channels, 3, padding=1, groups=inner.groups)
    depthwise = depthwise.to(inner.weight)
    depthwise.weight.copy_(inner.weight)
    depthwise.bias.copy_(scale.shift * inner.weight.double().sum((1, 2, 3)))  # type: ignore[union-attr]
    return [expand, depthwise, merge_convs([module.project, module.project_norm])]


@linear_steps.register
def _(module: RepConv) -> tuple[Step, ...]:
    scale = norm_scale(module.expand_norm)
    border = Pad((1, 1), scale.shift)
    rows = (linear_steps(conv) or () for conv in (module.expand, module.depthwise, module.project))
    expand, depthwise, project = rows
    return (*expand, scale, border, *depthwise, *project, norm_scale(module.project_norm))
