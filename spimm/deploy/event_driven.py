"""Networks of spike times run spike by spike, as on an asynchronous chip, with a count of every synaptic operation.

The spikes of a layer are processed in the order of their times. A spike reaches the neurons that its synapses lead to
and no others: each of its weights is added to the slope of one potential, one synaptic operation. What no spike reaches
costs nothing. Where the window of the layer opens all input has arrived, and each potential is a straight line.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spimm.deploy.ttfs import Run, pooled_for, spiking_chain_of
from spimm.layers import PSPConv2d, PSPLinear

AT_ONCE = 2**18
"""Synaptic operations that are carried out between two looks at the events, at least one event's."""


@dataclass(frozen=True)
class EventRun(Run):
    """A run, and the synaptic operations of each image in each product by the layer's name, int64 [N]."""

    operations: dict[str, Tensor]


class Events(NamedTuple):
    """Spikes in the order of their times, ties by image and neuron; neurons of the flat map, time left. Each [E]."""

    image: Tensor
    neuron: Tensor
    left: Tensor


def events_of(spikes: Tensor) -> Events:
    """Of spikes [2, N, ...]: what is left of the window, and whether each neuron fires."""
    left, fired = spikes.flatten(2)
    image, neuron = fired.nonzero(as_tuple=True)
    times = left[image, neuron]
    order = times.argsort(descending=True, stable=True)
    return Events(image[order], neuron[order], times[order])


class Synapses(NamedTuple):
    """What events reach: S bundles of synapses, each of one weight for every channel of a place."""

    event: Tensor
    """[S] the event each belongs to."""
    place: Tensor
    """[S] image and pixel it leads to, flat."""
    bundle: Tensor
    """[S] row of the weights."""


class Membranes:
    """Potentials of a layer behind one product, at first at rest; `shape`: that of the product's input, [N, ...].

    Kept of each is where it will be when the window of the input closes if no more spikes come, and its slope.
    """

    def __init__(self, product: nn.Module, shape: torch.Size, window: float):
        if not isinstance(product, PSPConv2d | PSPLinear):
            raise ValueError(f"product is {product}; wanted PSPConv2d or PSPLinear")
        self.window, self.shape, weight = window, shape, product.weight.detach()
        self.padding = int(product.padding[0]) if isinstance(product, PSPConv2d) else 0
        self.kernel = weight.shape[-1] if isinstance(product, PSPConv2d) else 1
        self.map = [size - self.kernel + 1 + 2 * self.padding for size in shape[2:]]
        self.bundles = weight.movedim(0, -1).reshape(-1, len(weight))  # a row for each input and tap
        self.lines = weight.new_zeros(shape[0] * math.prod(self.map), 2, len(weight))
        self.operations = torch.zeros(shape[0], dtype=torch.int64, device=weight.device)

    def receive(self, events: Events) -> None:
        """Events in the order of their times, none of them in front of those received before."""
        most = max(1, AT_ONCE // (self.kernel**2 * self.bundles.shape[1]))
        for batch in zip(*(part.split(most) for part in events), strict=True):
            self._add(Events(*batch))

    def potential(self, time: float) -> Tensor:
        """Potentials at a time of the input's window, all events up to it received and no others. [N, C', ...]."""
        at_end, slope = self.drive()
        return at_end - (self.window - time) * slope

    def drive(self) -> Tensor:
        """Potentials where the next window starts, and their slopes. [2, N, C', H', W'] or [2, N, F']."""
        return self.lines.view(self.shape[0], *self.map, 2, -1).movedim((-2, -1), (0, 2))

    def _add(self, events: Events) -> None:
        reached = self._reached(events)
        weights, left = self.bundles[reached.bundle], events.left[reached.event]
        gains = torch.stack([left, torch.ones_like(left)], 1)
        self.lines.index_add_(0, reached.place, gains.unsqueeze(2) * weights.unsqueeze(1))
        counts = torch.bincount(events.image[reached.event], minlength=len(self.operations))
        self.operations += counts * weights.shape[1]

    def _reached(self, events: Events) -> Synapses:
        """The synapses of the events, those that lead over the border left out."""
        which = torch.arange(len(events.image), device=events.image.device)
        if not self.map:
            return Synapses(which, events.image, events.neuron)
        _, _, height, width = self.shape
        tap = torch.arange(self.kernel**2, device=which.device)
        channel, pixel = events.neuron // (height * width), events.neuron % (height * width)
        row = (pixel // width + self.padding).unsqueeze(1) - tap // self.kernel
        column = (pixel % width + self.padding).unsqueeze(1) - tap % self.kernel
        exists = (row >= 0) & (row < self.map[0]) & (column >= 0) & (column < self.map[1])
        place = (events.image.unsqueeze(1) * self.map[0] + row) * self.map[1] + column
        bundle = channel.unsqueeze(1) * self.kernel**2 + tap
        return Synapses(which.unsqueeze(1).expand_as(exists)[exists], place[exists], bundle[exists])


@torch.no_grad()
def run_event_driven(model: nn.Module, x: Tensor) -> EventRun:
    """Logits, spikes and synaptic operations of a network of spike times, spike by spike. x: [N, C, H, W].

    Equal to the closed form up to the order of sums. Cost grows with the spikes. The first convolution of direct coding
    has real numbers as its input and no synaptic operations. Raises ValueError for a model without spike times.
    """
    chain = spiking_chain_of(model)
    spikes = chain.encode(x)
    kept, operations = {chain.code_name: spikes}, {}
    for name, unit, pool in chain.layers:
        membranes = _after(unit.product, pooled_for(spikes, pool, unit.product), chain.window)
        spikes = kept[name] = unit.neuron(membranes.drive())
        operations[name] = membranes.operations
    membranes = _after(chain.head, pooled_for(spikes, chain.last_pool, chain.head), chain.window)
    operations[chain.head_name] = membranes.operations
    return EventRun(chain.readout(membranes.drive()), kept, operations)


def _after(product: nn.Module, spikes: Tensor, window: float) -> Membranes:
    membranes = Membranes(product, spikes.shape[1:], window)
    membranes.receive(events_of(spikes))
    return membranes
