"""Energy on neuromorphic processors from latency and spikes alone, and how sparse a network fired. Pure: no model.

Eq. 11 of Wei et al. 2023 (after Park et al. 2020): E = E_static latency + E_dynamic spikes, both over those of a
reference, rate coding in the paper, whose energy so becomes 1: E = E_static steps / 512 + E_dynamic spikes / 2.612M.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from rich.table import Table

from spimm.analyze.constants import SPINNAKER, TRUENORTH, Platform
from spimm.analyze.trace import Trace

PLATFORMS = (TRUENORTH, SPINNAKER)


@dataclass(frozen=True)
class CodingCost:
    """What an image costs in a spike code."""

    name: str
    steps: float
    """Latency in time steps."""
    spikes: float
    """Of the whole network."""

    def energy(self, platform: Platform, reference: "CodingCost | None" = None) -> float:
        """Eq. 11, as a multiple of the energy of `reference`, by default published rate coding."""
        reference = reference or RATE_CODING
        latency, spikes = self.steps / reference.steps, self.spikes / reference.spikes
        return platform.static * latency + platform.dynamic * spikes

    @classmethod
    def from_trace(cls, trace: Trace, steps_per_window: int, *, windows: int | None = None) -> "CodingCost":
        """Of a recorded network of spike times whose layers fire one after the other, each in a window of its own.

        windows: how many, by default one for each layer of neurons, the output included; pixels that an input code
        makes spikes of have one more. Raises ValueError for no window, no step, and a trace of several time steps.
        """
        if trace.num_steps != 1:
            raise ValueError(f"the trace of {trace.model} has {trace.num_steps} steps; wanted 1, with a window a layer")
        windows = len(trace.firing_rates()) if windows is None else windows
        if windows < 1 or steps_per_window < 1:
            raise ValueError(f"there are {windows} windows of {steps_per_window} steps; wanted at least 1 of each")
        return cls(trace.model, windows * steps_per_window, total_spikes(trace))


RATE_CODING = CodingCost("rate", 512, 2.612e6)


class PublishedCoding(NamedTuple):
    """A row of Table 2 of Wei et al. 2023: VGG16 on CIFAR-10, energies as printed."""

    cost: CodingCost
    top1: float
    """Percent."""
    truenorth: float
    spinnaker: float
    source: str


PUBLISHED_CODINGS = (
    PublishedCoding(RATE_CODING, 93.39, 1, 1, "Han et al., CVPR 2020"),
    PublishedCoding(CodingCost("phase", 1500, 35.196e6), 91.21, 7.1476, 9.6785, "Kim et al., Neurocomputing 2018"),
    PublishedCoding(CodingCost("burst", 1125, 6.92e6), 91.41, 2.3781, 2.4865, "Park et al., DAC 2019"),
    PublishedCoding(CodingCost("T2FSNN", 680, 0.069e6), 91.43, 0.8074, 0.4950, "Park et al., DAC 2020"),
    PublishedCoding(CodingCost("TTFS", 544, 0.067e6), 91.9, 0.6478, 0.3989, "Park and Yoon, arXiv:2106.02568, 2021"),
    PublishedCoding(CodingCost("DTA-TTFS", 160, 0.073e6), 93.05, 0.1987, 0.1304, "Wei et al., ICCV 2023"),
)


def total_spikes(trace: Trace) -> float:
    """Spikes of all neurons per sample, over all time steps."""
    return sum(sum(layer.step_rates) * math.prod(layer.output_shape) for layer in trace.layers)


def sparsity(trace: Trace) -> float:
    """S / N: spikes per neuron and sample, all layers of neurons together. Raises ValueError if there is none.

    At most 1 where neurons fire once, and the less the sparser. Outputs that are read by their potential count as
    spikes, as those of Wei et al. do; spikes that an input code makes of pixels do not.
    """
    neurons = sum(math.prod(layer.output_shape) for layer in trace.layers if layer.step_rates)
    if not neurons:
        raise ValueError(f"the trace of {trace.model} has no neurons")
    return total_spikes(trace) / neurons


def coding_table(costs: Iterable[CodingCost], reference: CodingCost | None = None) -> Table:
    """One row a code, for a terminal, e.g. of the published ones and one's own; energies over that of the reference."""
    reference = reference or RATE_CODING
    table = Table(title=f"energy per image, {reference.name} coding = 1")
    table.add_column("coding", no_wrap=True)
    for heading in ("steps", "spikes, M", *(platform.name for platform in PLATFORMS)):
        table.add_column(heading, justify="right")
    for cost in costs:
        energies = (f"{cost.energy(platform, reference):.4f}" for platform in PLATFORMS)
        table.add_row(cost.name, f"{cost.steps:g}", f"{cost.spikes / 1e6:.3f}", *energies)
    return table
