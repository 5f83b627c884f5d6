"""Residual shortcuts: where the neuron stands relative to the addition. Yao et al. 2024 (Meta-SpikeFormer), section 3.

`vanilla` (VS): y = LIF(x + branch(x)), branches end in batch norm and the neuron fires on the sum: spikes, but no
identity. `spike_add` (SEW, QKFormer): y = x + branch(x), branches end in a neuron; the stream holds small integers.
`membrane` (MS, pre-activation): y = x + branch(LIF(x)), branches end in batch norm; the stream holds real potentials
and every convolution sees binary spikes.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

from torch import Tensor, nn

from spimm.neurons import Neuron

Shortcut = Literal["vanilla", "spike_add", "membrane"]
NeuronFn = Callable[[], Neuron]


class Ending(NamedTuple):
    """How a branch ends: the settings of its last unit."""

    neuron: Neuron | None
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
    """x and branch(entry(x)), joined. x: [T, B, C, H, W] -> same. The branch takes x in, in its last op."""

    def __init__(self, branch: nn.Module, *, shortcut: Shortcut, neuron_fn: NeuronFn):
        super().__init__()
        self.entry = entry(shortcut, neuron_fn)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self.entry(x), added=x)
