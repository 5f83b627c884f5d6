"""Networks of spike times run by the clock, as on a synchronous chip: potentials grow and are compared at every step.

Each layer lives for two windows of N = T_w / dt steps: in the first its input arrives and nothing can fire, in the
second the threshold falls. At a step the potential grows by dt times its slope; then the slope grows by the weights of
the inputs that fire at that step, one convolution for each step with a spike. Times are multiples of dt.

The thresholds at step k = 0, 1, ... of the window:

- "exact": T_w (N - k) / N, met by V >= threshold, k up to N. A neuron fires at the first step at or behind the time of
  the closed form, for the distance to the threshold changes its sign once: given the same input on the grid the same
  neurons fire, 0 <= t_step - t < dt. (A potential of 0 at k = N counts if it does in the closed form, `closed`.)
- "shifted", the authors': one step lower, T_w (N - 1 - k) / N, met by V > threshold, k up to N - 1. The distance to the
  threshold shrinks at the rate 1 + W, W the sum of the weights, so that it fires up to dt / (1 + W) early and up to
  dt W / (1 + W) late, which on the whole makes up for steps that round times up. It also decides whether to fire from
  the potential one step in front of the end.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from spimm.deploy.ttfs import Run, pooled_for, spiking_chain_of
from spimm.layers import TTFSUnit
from spimm.neurons import RelPSP

Threshold = Literal["shifted", "exact"]
Output = Literal["readout", "constant"]
CONSTANT_THRESHOLD = 20.0
CONSTANT_WINDOWS = 4
"""The authors' output neurons: a constant threshold, from the start of their window for so many windows."""


class Clock:
    """Layers in steps of dt. Spikes are two planes here too, the first in steps left: N - k, 0 where silent."""

    def __init__(self, window: float, dt: float, threshold: Threshold):
        if threshold not in get_args(Threshold):
            raise ValueError(f"threshold is {threshold!r}; wanted {' or '.join(get_args(Threshold))}")
        self.num_steps = count_steps(window, dt)
        self.window, self.dt, self.exact = window, window / self.num_steps, threshold == "exact"

    def encode(self, spikes: Tensor) -> Tensor:
        """Spikes at any time, [2, ...] -> at the steps where a constant potential T_w - t would meet the threshold."""
        left = spikes[0] / self.dt
        nearest, rounding = left.round(), 4 * self.num_steps * torch.finfo(left.dtype).eps
        left = torch.where((left - nearest).abs() <= rounding, nearest, left)  # 0.29 / 0.01 is 29
        return torch.stack([left.floor() if self.exact else left.ceil(), spikes[1]])

    def decode(self, spikes: Tensor) -> Tensor:
        """Steps left -> time left."""
        return torch.stack([spikes[0] * self.dt, spikes[1]])

    def integrate(self, product: nn.Module, spikes: Tensor) -> Tensor:
        """The first window. Spikes [2, N, ...] -> potentials where the second starts, and slopes, [2, N, ...]."""
        left, fired = spikes
        slope = product(((left == self.num_steps) * fired).unsqueeze(0))[0]
        potential = torch.zeros_like(slope)
        for step in range(1, self.num_steps + 1):
            potential += self.dt * slope
            arriving = (left == self.num_steps - step) * fired
            if arriving.any():
                slope += product(arriving.unsqueeze(0))[0]
        return torch.stack([potential, slope])

    def fire(self, drive: Tensor, closed: bool) -> Tensor:
        """The second window: spikes of potentials and slopes. [2, ...] -> [2, ...]."""
        potential, slope = drive[0].clone(), drive[1]
        left, fired = torch.zeros_like(drive)
        for step in range(self.num_steps + self.exact):
            if self.exact:
                threshold = self.dt * (self.num_steps - step)
                meets = potential >= threshold if threshold or closed else potential > threshold
            else:
                meets = potential > self.dt * (self.num_steps - 1 - step)
            left = torch.where(meets & (fired == 0), self.num_steps - step, left)
            fired = torch.where(meets, 1, fired)
            potential += self.dt * slope
        return torch.stack([left, fired])

    def first_above(self, drive: Tensor, threshold: float, windows: int) -> Tensor:
        """The time from the window's start at which a potential is first above a constant; at most so many windows."""
        potential = drive[0].clone()
        steps = torch.full_like(potential, windows * self.num_steps)
        for step in range(windows * self.num_steps):
            steps = torch.where(potential > threshold, steps.clamp(max=step), steps)
            potential += self.dt * drive[1]
        return steps * self.dt


def count_steps(window: float, dt: float) -> int:
    """Steps of dt in a window. Raises ValueError unless they fill it, naming the nearest that do."""
    if not 0 < dt <= window * (1 + 1e-9):
        raise ValueError(f"dt is {dt}; wanted more than 0 and at most the window, {window}")
    steps = round(window / dt)
    if abs(steps * dt - window) > 1e-9 * window:
        fewer = int(window / dt)
        raise ValueError(
            f"dt is {dt}, which does not divide the window of {window}; "
            f"the nearest that do are {window / fewer:.6g} and {window / (fewer + 1):.6g}"
        )
    return steps


@torch.no_grad()
def run_stepwise(
    model: nn.Module, x: Tensor, dt: float, *, threshold: Threshold = "shifted", output: Output = "readout"
) -> Run:
    """Logits and spikes of a network of spike times simulated in steps of dt, in the units of its window.

    x: [N, C, H, W]. `output`: the model's read-out, its spike times on the grid too; or "constant", the authors' output
    neurons, which fire where their potential is above 20, the earliest winning: minus that time from the start of the
    window, at the latest 4 windows. Cost grows with 1 / dt. Raises ValueError for a dt that does not divide the window
    (naming the nearest that do), for another threshold or output, and for a model without spike times.
    """
    if output not in get_args(Output):
        raise ValueError(f"output is {output!r}; wanted {' or '.join(get_args(Output))}")
    chain = spiking_chain_of(model)
    clock = Clock(chain.window, dt, threshold)
    spikes = clock.encode(chain.encode(x))
    kept = {chain.code_name: clock.decode(spikes)}
    for name, unit, pool in chain.layers:
        spikes = _step_through(clock, unit, pooled_for(spikes, pool, unit.product))
        kept[name] = clock.decode(spikes)
    drive = clock.integrate(chain.head, pooled_for(spikes, chain.last_pool, chain.head))
    if output == "constant":
        return Run(-clock.first_above(drive, CONSTANT_THRESHOLD, CONSTANT_WINDOWS), kept)
    neuron = chain.readout.neuron
    if chain.readout.kind != "time" or not isinstance(neuron, RelPSP):
        return Run(chain.readout(drive), kept)
    return Run(clock.decode(clock.fire(drive, neuron.closed))[0] - clock.window, kept)


def _step_through(clock: Clock, unit: TTFSUnit, spikes: Tensor) -> Tensor:
    assert isinstance(unit.neuron, RelPSP)
    return clock.fire(clock.integrate(unit.product, spikes), unit.neuron.closed)
