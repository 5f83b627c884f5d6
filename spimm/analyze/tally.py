"""Sums over batches from which a trace is made: counts of values, never the values themselves."""

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from spimm.analyze.ops import Probe, Work
from spimm.analyze.trace import Input, Layer, Product, Shape, SpikeTimes

HIGHEST = 16
"""Values of this magnitude or more share the last bin of a histogram."""
TIME_BINS = 20
"""Parts of a window of spike times."""


class ValueSums(NamedTuple):
    """Counts over the values of one tensor."""

    count: int
    nonzero: int
    total: float
    magnitude: float
    levels: tuple[int, ...]
    """How many values have magnitude 0, 1, ..., HIGHEST or more; empty unless all are integers."""

    def __add__(self, other: "ValueSums") -> "ValueSums":  # type: ignore[override]
        levels = tuple(a + b for a, b in zip(self.levels, other.levels, strict=False))  # empty if either is
        return ValueSums(
            self.count + other.count,
            self.nonzero + other.nonzero,
            self.total + other.total,
            self.magnitude + other.magnitude,
            levels,
        )

    def summary(self, name: str, shape: Shape) -> Input:
        """Fractions and means."""
        return Input(
            name,
            shape,
            self.nonzero / self.count,
            self.total / self.count,
            self.magnitude / self.count,
            tuple(level / self.count for level in self.levels),
        )


def sum_values(x: Tensor, layer: str) -> ValueSums:
    """Counts the values of x, any shape. Raises ValueError, naming the layer, if one is not finite."""
    count, nonzero, ones = x.numel(), int(torch.count_nonzero(x)), int(torch.count_nonzero(x == 1))
    if ones == nonzero:  # spikes: the common case needs no further pass
        return ValueSums(count, nonzero, ones, ones, _levels([count - ones, ones]))
    size = x.abs()
    total, magnitude = float(x.sum(dtype=torch.float64)), float(size.sum(dtype=torch.float64))
    if not magnitude < float("inf"):
        raise ValueError(f"an input of layer {layer!r} holds values that are not finite")
    levels = [count - nonzero]
    if torch.equal(size, size.round()):
        while len(levels) < HIGHEST and sum(levels) < count:
            levels.append(int(torch.count_nonzero(size == len(levels))))
        return ValueSums(count, nonzero, total, magnitude, _levels(levels, count))
    return ValueSums(count, nonzero, total, magnitude, ())


def _levels(counted: list[int], count: int | None = None) -> tuple[int, ...]:
    higher = 0 if count is None else count - sum(counted)
    return (*counted, *[0] * (HIGHEST - len(counted)), higher)


def count_spikes(y: Tensor, channel_axis: int, layer: str) -> Tensor:
    """Spikes at each step and channel, [T, C]. Raises ValueError unless y: [T, B, ...] holds zeros and ones only."""
    if y.dim() < 3:
        raise ValueError(f"neuron {layer!r} gives shape {tuple(y.shape)}; wanted [T, B, C, ...]")
    spikes = y == 1
    if torch.count_nonzero(spikes) != torch.count_nonzero(y):
        raise ValueError(f"neuron {layer!r} gives {y[~spikes & (y != 0)][0].item()}; wanted spikes, exactly 0 or 1")
    others = [axis for axis in range(y.dim()) if axis not in (0, channel_axis % y.dim())]
    return torch.count_nonzero(spikes, dim=others)


class TimeSums(NamedTuple):
    """Counts over the spikes of neurons that fire once."""

    count: int
    total: float
    at_start: int
    histogram: Tensor
    """Spikes in each part of the window, [TIME_BINS]."""

    def __add__(self, other: "TimeSums") -> "TimeSums":  # type: ignore[override]
        count, total, at_start = self.count + other.count, self.total + other.total, self.at_start + other.at_start
        return TimeSums(count, total, at_start, self.histogram + other.histogram)

    def summary(self) -> SpikeTimes | None:
        """Fractions and the mean; None without a spike."""
        if not self.count:
            return None
        parts = self.histogram / self.count
        return SpikeTimes(self.total / self.count, self.at_start / self.count, tuple(parts.tolist()))


def sum_times(x: Tensor, layer: str) -> TimeSums:
    """Counts the spikes of x: [...], times from 0 to 1. Raises ValueError, naming the layer, for others and for NaN."""
    spikes = x[x != torch.inf].double()
    if not ((spikes >= 0) & (spikes <= 1)).all():
        low, high = spikes.aminmax()
        raise ValueError(f"neuron {layer!r} fires between {low:.4g} and {high:.4g} of its window; wanted 0 to 1")
    parts = (spikes * TIME_BINS).long().clamp(max=TIME_BINS - 1)
    at_start = int(torch.count_nonzero(spikes == 0))
    histogram = torch.bincount(parts, minlength=TIME_BINS).double().cpu()
    return TimeSums(len(spikes), float(spikes.sum()), at_start, histogram)


class LayerSums(NamedTuple):
    """Sums of one layer."""

    probe: Probe
    input_shapes: tuple[Shape, ...]
    output_shape: Shape
    steps: int
    samples: int
    values: tuple[ValueSums, ...]
    work: tuple[Work, ...]
    fired: Tensor | None
    """Neurons: spikes at each step and channel, [T, C]; each sums `places` outputs."""
    places: int
    times: TimeSums | None = None
    """Neurons that fire once."""

    def merge(self, other: "LayerSums", name: str) -> "LayerSums":
        """The sums of both. Raises ValueError, naming the layer, if their shapes or steps differ."""
        mine, theirs = ((sums.input_shapes, sums.output_shape, sums.steps) for sums in (self, other))
        if mine != theirs:
            raise ValueError(
                f"layer {name!r} ran {self.steps} steps of {self.input_shapes} -> {self.output_shape} before and now "
                f"{other.steps} steps of {other.input_shapes} -> {other.output_shape}; record them apart"
            )
        return self._replace(
            samples=self.samples + other.samples,
            values=tuple(a + b for a, b in zip(self.values, other.values, strict=True)),
            work=tuple(
                a if a.paired is None or b.paired is None else a._replace(paired=a.paired + b.paired)
                for a, b in zip(self.work, other.work, strict=True)
            ),
            fired=None if self.fired is None or other.fired is None else self.fired + other.fired,
            places=self.places + other.places,
            times=None if self.times is None or other.times is None else self.times + other.times,
        )

    def summary(self, name: str) -> Layer:
        """The layer of a trace."""
        names, runs = self.probe.inputs, self.steps * self.samples
        layer = Layer(
            name=name,
            kind=self.probe.kind,
            input_shape=self.input_shapes[0],
            output_shape=self.output_shape,
            steps=self.steps,
            inputs=tuple(map(ValueSums.summary, self.values, names, self.input_shapes)),
            products=tuple(
                Product(
                    work.name,
                    work.dense,
                    names[work.gate],
                    None if work.paired is None else work.paired / (work.dense * runs),
                    work.undivided,
                    work.softmax,
                )
                for work in self.work
            ),
        )
        return layer if self.fired is None else self._with_spikes(layer, self.fired)

    def _with_spikes(self, layer: Layer, fired: Tensor) -> Layer:
        steps, channels = fired.shape
        per_channel = fired.sum(0)
        return replace(
            layer,
            step_rates=tuple((fired.sum(1).double() / (self.places * channels)).tolist()),
            channel_rates=tuple((per_channel.double() / (self.places * steps)).tolist()),
            silent=int((per_channel == 0).sum()) / channels,
            saturated=int((per_channel == self.places * steps).sum()) / channels,
            times=self.times and self.times.summary(),
        )
