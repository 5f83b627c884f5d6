"""Residual shortcuts: where the neuron stands relative to the addition.

`spike_add` (SEW, QKFormer): y = x + branch(x), branches end in a neuron; the stream holds small integers.
`membrane` (MS, pre-activation): y = x + branch(LIF(x)), branches end in batch norm; the stream holds real potentials
and every convolution sees binary spikes.
"""

from collections.abc import Callable
from typing import Literal, get_args

from torch import Tensor, nn

from spimm.neurons import Neuron

Shortcut = Literal["spike_add", "membrane"]
NeuronFn = Callable[[], Neuron]


def check_shortcut(shortcut: str) -> None:
    """Raises ValueError unless `shortcut` names a kind."""
    if shortcut not in get_args(Shortcut):
        raise ValueError(f"unknown shortcut {shortcut!r}; wanted one of {', '.join(get_args(Shortcut))}")


def entry(shortcut: Shortcut, neuron_fn: NeuronFn) -> nn.Module:
    """What stands in front of a branch: a neuron for `membrane`, nothing for `spike_add`."""
    return neuron_fn() if shortcut == "membrane" else nn.Identity()


def exit_neuron(shortcut: Shortcut, neuron_fn: NeuronFn) -> Neuron | None:
    """What stands behind the last norm of a branch: a neuron for `spike_add`, nothing for `membrane`."""
    return neuron_fn() if shortcut == "spike_add" else None


class Residual(nn.Module):
    """x + branch(entry(x)). x: [T, B, C, H, W] -> same. The branch adds x itself, in its last op."""

    def __init__(self, branch: nn.Module, *, shortcut: Shortcut, neuron_fn: NeuronFn):
        super().__init__()
        self.entry = entry(shortcut, neuron_fn)
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return self.branch(self.entry(x), added=x)
