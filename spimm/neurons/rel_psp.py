"""Neurons that fire once, at times of their own, and the ReLU1 that ordinary networks have in their place.

Spikes are two planes, [2, ...]: what is left of the window of length T_w when a neuron fires, T_w - t, and whether it
fires at all. Ordinary activations are one plane, [1, ...].
"""

import math

import torch
from torch import Tensor, nn

from spimm.kernels import rel_psp
from spimm.kernels.rel_psp import reference
from spimm.neurons.base import SpikeOutput
from spimm.neurons.by_itself import fusible


@fusible
class RelPSP(nn.Module):
    """Rectified linear potentials and a threshold that falls to 0 (Wei et al. 2023, Eqs. 2-7), in closed form.

    drive: [2, ...] -> [2, ...] (see kernels.rel_psp, with the settings); `pool` gives the earliest spike of squares.
    """

    planes = 2

    def __init__(self, *, window: float = 1.0, closed: bool = True, clip: float = math.inf):
        super().__init__()
        self.window, self.closed, self.clip = float(window), closed, float(clip)

    @property
    def output(self) -> SpikeOutput:
        """Spike times."""
        return SpikeOutput("times")

    def forward(self, drive: Tensor, pool: int = 1) -> Tensor:
        return rel_psp(drive, window=self.window, pool=pool, closed=self.closed, clip=self.clip)

    def extra_repr(self) -> str:
        return f"window={self.window}, closed={self.closed}, clip={self.clip}"


@fusible
class ReLU1(nn.Module):
    """max(0, min(1, z)), then with `pool` the largest of squares. z: [1, ...] -> [1, ...]."""

    planes = 1

    @property
    def output(self) -> SpikeOutput:
        """Real numbers."""
        return SpikeOutput("real")

    def forward(self, drive: Tensor, pool: int = 1) -> Tensor:
        activation = drive.clamp(0, 1)
        return activation if pool == 1 else reference.earliest(activation, pool)


def spike_times(spikes: Tensor, window: float = 1.0) -> Tensor:
    """Times from the start of the window, infinite where a neuron is silent. spikes: [2, ...] -> [...]."""
    return torch.where(spikes[1] > 0, window - spikes[0], math.inf)
