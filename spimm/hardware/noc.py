"""The network-on-chip of a placed network: how many packets of a frame each link carries, and how long they take."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from spimm.hardware.cost import TimeCosts
from spimm.hardware.mapping import CoreMap
from spimm.hardware.mesh import Delivery, Loads, Mesh, Numbers, Spread, Tile, Tiles
from spimm.hardware.placement import flows_of

NANOSECONDS_PER_MICROSECOND = 1e3


@dataclass(frozen=True, eq=False)
class StageTraffic:
    """What a stage sends to the next for a frame."""

    stage: int
    """-1: the input."""
    steps: int
    """Windows in which it sends."""
    spikes: Numbers
    """Of each core of the stage, per frame."""
    hops_per_spike: Numbers
    """Links that a spike of each core crosses, all its packets together."""
    mean_distances: Numbers
    """Links between each core and a receiver, mean over its receivers."""
    distances: Numbers
    """[longest + 1], deliveries per frame by the links between sender and receiver."""
    loads: Loads
    """Per frame."""

    @property
    def hops(self) -> float:
        """Per frame."""
        return float(self.spikes @ self.hops_per_spike)

    @property
    def longest(self) -> int:
        """Links of the longest route."""
        return len(self.distances) - 1

    def busiest(self) -> float:
        """Packets over the most loaded link in one window."""
        return float(self.loads.flat().max(initial=0)) / self.steps


@dataclass(frozen=True, eq=False)
class Traffic:
    """Everything that is sent for a frame."""

    mesh: Mesh
    stages: tuple[StageTraffic, ...]
    """In the order in which they send; without the last, which sends nothing on the chip."""

    def loads(self) -> Loads:
        """Packets over each link, per frame."""
        nothing = Spread.to(np.empty((0, 2), int), self.mesh, "unicast").loads(np.empty((0, 2), int), np.empty(0))
        return reduce(add, (stage.loads for stage in self.stages), nothing)

    @property
    def hops(self) -> float:
        """Links crossed by all spikes of a frame."""
        return sum(stage.hops for stage in self.stages)

    def hop_histogram(self) -> tuple[float, ...]:
        """Spikes that are sent, per frame, by the links they cross, all packets of a spike together."""
        return _sum(_histogram(stage.hops_per_spike.astype(int), stage.spikes) for stage in self.stages)

    def distance_histogram(self) -> tuple[float, ...]:
        """Deliveries, spikes times receiving cores, per frame by the links between sender and receiver."""
        return _sum(stage.distances for stage in self.stages)

    @property
    def hops_to_one(self) -> float:
        """Links that all spikes of a frame would cross if each went to one of its receivers: mean over these."""
        return sum(float(stage.spikes @ stage.mean_distances) for stage in self.stages)

    @property
    def mean_distance(self) -> float:
        """`hops_to_one` of a spike that is sent; 0 if none is."""
        spikes = sum(float(stage.spikes.sum()) for stage in self.stages)
        return self.hops_to_one / spikes if spikes else 0.0


def send(chip: CoreMap, mesh: Mesh, tiles: Sequence[Tile], delivery: Delivery = "multicast") -> Traffic:
    """The traffic of a frame: each spike goes from its core to every core of the next stage, by XY routes."""
    where, stages = np.array(tiles), []
    for flow in flows_of(chip):
        steps = chip.input_steps if flow.stage < 0 else chip.steps_of(flow.stage)
        senders, receivers = flow.tiles_of_senders(where), flow.tiles_of_receivers(where)
        lengths = np.abs(senders[:, None] - receivers).sum(2)  # [senders, receivers]
        spread = Spread.to(receivers, mesh, delivery)
        stages.append(
            StageTraffic(
                flow.stage,
                steps,
                spikes=flow.spikes,
                hops_per_spike=spread.hops(senders),
                mean_distances=lengths.mean(1),
                distances=_histogram(lengths.ravel(), flow.spikes.repeat(len(receivers))),
                loads=spread.loads(senders, flow.spikes),
            )
        )
    return Traffic(mesh, tuple(stages))


@dataclass(frozen=True)
class Congestion:
    """Packets in one window over the capacity of a link; above 1 they outlast the window."""

    peak: float
    """Of the most loaded link in its fullest window."""
    mean: float
    """Over all links of the mesh, and all windows in which spikes are sent."""
    overloaded: int
    """Links that are above 1 in some window."""


def congestion(traffic: Traffic, times: TimeCosts) -> Congestion:
    """How full the links are. Every stage sends in windows of its own, as much in each."""
    windows, links = sum(stage.steps for stage in traffic.stages), traffic.mesh.num_links
    if not windows or not links:
        return Congestion(0.0, 0.0, 0)
    full = [stage.loads.flat() / (stage.steps * times.link_capacity) for stage in traffic.stages]
    return Congestion(
        float(np.max(full)),
        traffic.hops / (windows * links * times.link_capacity),
        int((np.max(full, axis=0) > 1).sum()),
    )


@dataclass(frozen=True)
class Latency:
    """Parts of the time of a frame, in us."""

    windows: float
    """Work of the layers."""
    drain: float
    """Packets that wait for one another on the most loaded link of each window."""
    path: float
    """The longest route of each window."""

    @property
    def total(self) -> float:
        return self.windows + self.drain + self.path


def latency(chip: CoreMap, traffic: Traffic, times: TimeCosts) -> Latency:
    """Stages take turns: a window of work, at whose end all of its spikes are sent.

    sum over stages of steps (window + window x packets on the busiest link / capacity + links of the longest route x
    time of a hop). Nothing overlaps, so this is an upper estimate; waiting at the ports of routers is not modelled.
    """
    windows = sum(chip.steps_of(stage) for stage in range(len(chip.stages)))
    packets = sum(stage.steps * stage.busiest() for stage in traffic.stages)
    routers = sum(stage.steps * stage.longest for stage in traffic.stages)
    return Latency(
        times.window_us * windows,
        times.window_us * packets / times.link_capacity,
        times.hop_ns * routers / NANOSECONDS_PER_MICROSECOND,
    )


def _histogram(lengths: Tiles, weights: Numbers) -> Numbers:
    return np.bincount(lengths, weights=weights).astype(float)


def _sum(histograms: Iterable[Numbers]) -> tuple[float, ...]:
    """Histograms of any lengths added up."""
    parts = list(histograms)
    total = np.zeros(max(map(len, parts), default=0))
    for part in parts:
        total[: len(part)] += part
    return tuple(total.tolist())
