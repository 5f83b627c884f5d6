"""Which core sits on which tile of a mesh."""

import itertools
import math
import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from spimm.hardware.mapping import CoreMap
from spimm.hardware.mesh import Delivery, Mesh, Numbers, Spread, Tile, Tiles

Placement = Literal["row", "snake", "hops"]
PORT = np.array([Tile(0, 0)])
"""Where packets from outside enter."""

PROPOSALS_PER_CORE, MOST_PROPOSALS = 200, 100_000
COOLING = 1e-3
"""Last temperature over the first."""


class Flow(NamedTuple):
    """Spikes of a stage, each for every core of the next."""

    stage: int
    """-1: the input, which comes from the port."""
    senders: range
    receivers: range
    spikes: Numbers
    """Of each sender, per frame."""

    def tiles_of_senders(self, tiles: Tiles) -> Tiles:
        return PORT if self.stage < 0 else tiles[self.senders.start : self.senders.stop]

    def tiles_of_receivers(self, tiles: Tiles) -> Tiles:
        return tiles[self.receivers.start : self.receivers.stop]


def flows_of(chip: CoreMap) -> Iterator[Flow]:
    """What is sent for a frame, stage by stage."""
    spikes, stages = np.array([core.spikes for core in chip.cores]), chip.stage_cores()
    if chip.input_spikes:
        yield Flow(-1, range(0), stages[0], np.array([chip.input_spikes]))
    for stage, (senders, receivers) in enumerate(itertools.pairwise(stages)):
        yield Flow(stage, senders, receivers, spikes[senders.start : senders.stop])


def place(
    chip: CoreMap, mesh: Mesh, placement: Placement = "hops", *, delivery: Delivery = "multicast", seed: int = 0
) -> tuple[Tile, ...]:
    """A tile for each core, in the order of the cores.

    row: row by row, each from the left. snake: every second row from the right. hops: the fewest links crossed per
    frame that simulated annealing over swaps of two tiles finds, from the better of the two; the same seed gives the
    same tiles. Raises ValueError if the mesh has too few tiles.
    """
    cores, tiles = len(chip.cores), mesh.tiles()
    if cores > len(tiles):
        raise ValueError(
            f"{chip.model} needs {cores} cores and a mesh of {mesh} has {len(tiles)}; {Mesh.fitting(cores)} would do"
        )
    snake = sorted(tiles, key=lambda tile: (tile.y, -tile.x if tile.y % 2 else tile.x))
    if placement == "row":
        return tiles[:cores]
    if placement == "snake":
        return tuple(snake[:cores])
    if placement != "hops":
        raise ValueError(f"placement is {placement!r}; wanted row, snake or hops")
    flows = list(flows_of(chip))
    starts = [np.array(order) for order in (tiles, snake)]
    start = min(starts, key=lambda order: sum(_hops(flow, order, mesh, delivery) for flow in flows))
    order = _anneal(start, flows, cores, mesh, delivery, random.Random(seed))
    return tuple(Tile(x, y) for x, y in order[:cores].tolist())


def _hops(flow: Flow, tiles: Tiles, mesh: Mesh, delivery: Delivery) -> float:
    spread = Spread.to(flow.tiles_of_receivers(tiles), mesh, delivery)
    return float(flow.spikes @ spread.hops(flow.tiles_of_senders(tiles)))


def _anneal(
    tiles: Tiles, flows: list[Flow], cores: int, mesh: Mesh, delivery: Delivery, random_: random.Random
) -> Tiles:
    """The best order of tiles met; those behind the last core stay empty."""
    tiles, best = tiles.copy(), tiles.copy()
    touching = [
        {number for number, flow in enumerate(flows) if core in flow.senders or core in flow.receivers}
        for core in range(cores)
    ] + [set[int]()] * (len(tiles) - cores)
    costs = [_hops(flow, tiles, mesh, delivery) for flow in flows]
    change, least, temperature = 0.0, 0.0, sum(costs) / cores
    proposals = min(PROPOSALS_PER_CORE * cores, MOST_PROPOSALS)
    cooling = COOLING ** (1 / proposals)
    for _ in range(proposals):
        temperature *= cooling
        one, other = random_.randrange(cores), random_.randrange(len(tiles))
        tiles[[one, other]] = tiles[[other, one]]
        found = {number: _hops(flows[number], tiles, mesh, delivery) for number in touching[one] | touching[other]}
        worse = math.fsum(cost - costs[number] for number, cost in found.items())
        if worse > 0 and random_.random() >= math.exp(-worse / temperature):
            tiles[[one, other]] = tiles[[other, one]]
            continue
        for number, cost in found.items():
            costs[number] = cost
        change += worse
        if change < least:
            best, least = tiles.copy(), change
    return best
