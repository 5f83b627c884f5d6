"""Residual shortcuts: where the neuron stands relative to the addition. Yao et al. 2024 (Meta-SpikeFormer), section 3.

`vanilla` (VS): y = LIF(x + branch(x)), branches end in batch norm and the neuron fires on the sum: spikes, but no
identity. `spike_add` (SEW, QKFormer): y = x + branch(x), branches end in a neuron; the stream holds small integers.
`membrane` (MS, pre-activation): y = x + branch(LIF(x)), branches end in batch norm; the stream holds real potentials
and every convolution sees binary spikes.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

Shortcut = Literal["vanilla", "spike_add", "membrane"]
NeuronFn = Callable[[], nn.Module]


class Ending(NamedTuple):
    """How a branch ends: the settings of its last unit."""

    neuron: nn.Module | None
    """Behind the last norm; none leaves the membrane."""
    adds_first: bool = False
    """Whether the shortcut joins in front of that neuron, not behind it."""


def check_shortcut(shortcut: str) -> None:
    """Raises ValueError unless `shortcut` names a kind."""
    if shortcut not in get_args(Shortcut):
        raise ValueError(f"unknown shortcut {shortcut!r}; wanted one of {', '.join(get_args(Shortcut))}")


def entry(shortcut: Shortcut, neuron_fn: NeuronFn) -> nn.Module:
    """What stands in front of a branch: a neuron for `membrane`, else nothing."""
    return neuron_fn() if shortcut == "membrane" else nn.Identity()


def ending(shortcut: Shortcut, neuron_fn: NeuronFn) -> Ending:
    """How a branch ends: in its norm for `membrane`, else in a neuron, which fires on the sum for `vanilla`."""
    return Ending(None if shortcut == "membrane" else neuron_fn(), adds_first=shortcut == "vanilla")


class Residual(nn.Module):
    """x and branch(entry(x)), joined. x: [T, B, C, H, W] -> same. The branch takes x in, in its last op.

    `drop_path`: probability that, in training, a sample goes without the branch at all its steps (stochastic depth,
    Huang et al. 2016). Membranes that are left are scaled up; spikes are not, so that they stay whole numbers. Not for
    `vanilla`, which has no stream to fall back on.
    """

    def __init__(self, branch: nn.Module, *, shortcut: Shortcut, neuron_fn: NeuronFn, drop_path: float = 0.0):
        super().__init__()
        check_drop_path(drop_path)
        if drop_path and shortcut == "vanilla":
            raise ValueError(f"drop_path is {drop_path}; it needs the shortcut membrane or spike_add, not vanilla")
        self.entry = entry(shortcut, neuron_fn)
        self.branch = branch
        self.drop_path = drop_path
        self.scales = shortcut == "membrane"

    def forward(self, x: Tensor) -> Tensor:
        if not (self.training and self.drop_path):
            return self.branch(self.entry(x), added=x)
        return x + drop_samples(self.branch(self.entry(x)), self.drop_path, scales=self.scales)


def check_drop_path(drop_path: float) -> None:
    """Raises ValueError unless `drop_path` is a probability below 1."""
    if not 0 <= drop_path < 1:
        raise ValueError(f"drop_path is {drop_path}; expected a probability from 0 to below 1")


def drop_samples(y: Tensor, drop_path: float, *, scales: bool = True) -> Tensor:
    """y: [T, B, C, H, W], a random share `drop_path` of its samples 0 at all steps; `scales`: the rest scaled up."""
    keep = 1 - drop_path
    kept = (torch.rand(y.shape[1], 1, 1, 1, device=y.device) < keep).to(y.dtype)
    return y * (kept / keep if scales else kept)
