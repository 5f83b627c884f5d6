"""The neuron layers of a trace cut into groups, one for each core of a chip.

Layers form a chain in the order in which they ran: the spikes of one go to every core of the next. Branches that run
side by side (query, key and value; shortcuts) are put in a row by this; only the thresholds of one multi-threshold
neuron are known to be parallel.
"""

import itertools
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from spimm.analyze.trace import Trace

NEURONS_PER_CORE = 1024
"""Wei et al., ICCV 2023, sec. 4.4.2."""


class Core(NamedTuple):
    """A group of neurons of one layer."""

    neurons: int
    spikes: float
    """That it sends, per frame."""


@dataclass(frozen=True)
class CutLayer:
    """A layer and its cores."""

    name: str
    steps: int
    """Windows in which it sends spikes, per frame."""
    cores: tuple[Core, ...]

    @property
    def neurons(self) -> int:
        return sum(core.neurons for core in self.cores)

    @property
    def spikes(self) -> float:
        """Per frame."""
        return sum(core.spikes for core in self.cores)


@dataclass(frozen=True)
class CoreMap:
    """A network cut into cores, which are numbered layer by layer."""

    model: str
    samples: int
    stages: tuple[tuple[CutLayer, ...], ...]
    """Each sends to the next; the layers of one work side by side."""
    input_spikes: float
    """Packets that come from outside per frame; 0 if input is not counted."""
    input_steps: int
    synaptic_operations: float
    """Per frame, behind the first neurons: operations of each product at the density of its input."""

    @property
    def layers(self) -> tuple[CutLayer, ...]:
        return tuple(itertools.chain(*self.stages))

    @property
    def cores(self) -> tuple[Core, ...]:
        return tuple(core for _, core in self.named_cores())

    def named_cores(self) -> list[tuple[str, Core]]:
        """Each with the name of its layer."""
        return [(layer.name, core) for layer in self.layers for core in layer.cores]

    def steps_of(self, stage: int) -> int:
        """Windows of a stage, per frame."""
        return max(layer.steps for layer in self.stages[stage])

    def stage_cores(self) -> list[range]:
        """Numbers of the cores of each stage."""
        ends = list(itertools.accumulate(sum(len(layer.cores) for layer in stage) for stage in self.stages))
        return [range(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def map_layers(trace: Trace, *, neurons_per_core: int = NEURONS_PER_CORE, count_input: bool = False) -> CoreMap:
    """Cuts each neuron layer along its channels into the fewest cores, of equal size up to one channel.

    Where one channel has more than `neurons_per_core` neurons, each channel is cut along space as well, into equal
    parts that send equal shares of its spikes. A layer computed once for all steps sends once. A last layer without
    neurons, the read-out, gets cores that receive and do not send. With `count_input` each value that is not 0 of the
    first layer's input is a packet from outside. Raises ValueError if the trace has no neurons, or one has no rates
    of its channels.
    """
    if neurons_per_core < 1:
        raise ValueError(f"neurons_per_core is {neurons_per_core}; wanted at least 1")
    spiking = [layer for layer in trace.layers if layer.step_rates]
    if not spiking:
        raise ValueError(f"the trace of {trace.model} has no neuron layer; wanted one at least")
    stages: list[tuple[CutLayer, ...]] = []
    for _, parallel in itertools.groupby(spiking, lambda layer: _without_threshold(layer.name)):
        stage = []
        for layer in parallel:
            outputs, channels = math.prod(layer.output_shape), len(layer.channel_rates)
            if not channels or outputs % channels:
                raise ValueError(f"layer {layer.name!r} has {outputs} outputs and rates of {channels} channels")
            runs = outputs // channels * layer.steps
            spikes = [runs * rate for rate in layer.channel_rates]
            stage.append(CutLayer(layer.name, layer.steps, _cut(outputs // channels, spikes, neurons_per_core)))
        stages.append(tuple(stage))
    last, source = trace.layers[-1], trace.layers[0]
    if last.products and not last.step_rates:
        channels = last.output_shape[0]
        cores = _cut(math.prod(last.output_shape) // channels, [0.0] * channels, neurons_per_core)
        stages.append((CutLayer(last.name, last.steps, cores),))
    if count_input and not source.inputs:
        raise ValueError(f"the trace has no values of the input: its first layer, {source.name!r}, records none")
    packets = math.prod(source.input_shape) * source.steps * source.inputs[0].nonzero if count_input else 0.0
    return CoreMap(trace.model, trace.samples, tuple(stages), packets, source.steps, _synaptic_operations(trace))


def _without_threshold(name: str) -> str:
    return re.sub(r"\[[^]]*\]", "", name)


def _cut(places: int, spikes: list[float], limit: int) -> tuple[Core, ...]:
    """Cores of a layer with so many neurons in each channel, from the spikes of its channels."""
    if places > limit:
        parts = list(_equal_parts(places, math.ceil(places / limit)))
        return tuple(Core(part, sent * part / places) for sent in spikes for part in parts)
    sizes = _equal_parts(len(spikes), math.ceil(len(spikes) / (limit // places)))
    channels = iter(spikes)
    return tuple(Core(size * places, math.fsum(itertools.islice(channels, size))) for size in sizes)


def _equal_parts(count: int, parts: int) -> Iterator[int]:
    """Sizes that add up to `count` and differ by 1 at most, larger ones first."""
    for part in range(parts):
        yield count // parts + (part < count % parts)


def _synaptic_operations(trace: Trace) -> float:
    names = [layer.name for layer in trace.layers if layer.step_rates]
    behind = itertools.dropwhile(lambda layer: layer.name != names[0], trace.layers)
    return sum(
        product.dense * layer.steps * layer.input(product.gate).nonzero
        for layer in behind
        for product in layer.products
    )
