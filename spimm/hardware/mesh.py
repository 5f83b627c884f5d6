"""A mesh of routers, and how many packets of a spike cross each of its links under XY routing.

XY: a packet goes along the row of its sender to the column of its receiver, then along that column. x counts columns
from the left, y rows from the top; arrays of tiles are [tiles, 2], each (x, y).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Delivery = Literal["multicast", "unicast"]
"""multicast: one packet for all receivers, copied where their routes part, so each link once. unicast: one for each."""

Numbers = NDArray[np.float64]
Tiles = NDArray[np.int64]


class Tile(NamedTuple):
    """A router and its core."""

    x: int
    y: int


MOST_TILES = 2**16
"""Of a simulated mesh: 16 chips of 4,096 cores."""


@dataclass(frozen=True)
class Mesh:
    """Columns x rows of tiles."""

    columns: int
    rows: int

    def __post_init__(self) -> None:
        if min(self.columns, self.rows) < 1:
            raise ValueError(f"mesh is {self}; wanted at least 1x1")
        if self.columns * self.rows > MOST_TILES:
            raise ValueError(f"mesh is {self}; expected at most {MOST_TILES:,} tiles")

    def __str__(self) -> str:
        return f"{self.columns}x{self.rows}"

    @classmethod
    def parse(cls, text: str) -> "Mesh":
        """From COLUMNSxROWS, as 12x12."""
        found = re.fullmatch(r"(\d+)x(\d+)", text)
        if found is None:
            raise ValueError(f"mesh is {text!r}; wanted COLUMNSxROWS, as 12x12")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def fitting(cls, cores: int) -> "Mesh":
        """A square with room for them, less the rows that would stay empty."""
        columns = math.isqrt(cores - 1) + 1
        return cls(columns, math.ceil(cores / columns))

    @property
    def num_links(self) -> int:
        """Both directions between neighbours."""
        return 2 * (self.rows * (self.columns - 1) + self.columns * (self.rows - 1))

    def tiles(self) -> tuple[Tile, ...]:
        """Row by row."""
        return tuple(Tile(x, y) for y in range(self.rows) for x in range(self.columns))


@dataclass(frozen=True, eq=False)
class Loads:
    """Packets over each link, by its direction and place."""

    right: Numbers
    """[rows, columns - 1], from x to x + 1."""
    left: Numbers
    """[rows, columns - 1], from x + 1 to x."""
    down: Numbers
    """[rows - 1, columns], from y to y + 1."""
    up: Numbers
    """[rows - 1, columns], from y + 1 to y."""

    def __add__(self, other: "Loads") -> "Loads":
        return Loads(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    def flat(self) -> Numbers:
        """All of them, [links]."""
        return np.concatenate([part.ravel() for part in vars(self).values()])

    def links(self) -> dict[tuple[Tile, Tile], float]:
        """By the tiles at both ends."""
        found = {}
        for name, (step_x, step_y) in {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}.items():
            for (row, column), load in np.ndenumerate(getattr(self, name)):
                start = Tile(column + (name == "left"), row + (name == "up"))
                found[start, Tile(start.x + step_x, start.y + step_y)] = float(load)
        return found


@dataclass(frozen=True, eq=False)
class Spread:
    """Packets that cross each link for one spike on its way to all of some receivers, wherever it starts.

    A link along the row counts in the row of the sender, and each link in a direction only if it leads away from it.
    """

    right: Numbers
    """[columns - 1], from x to x + 1."""
    left: Numbers
    down: Numbers
    """[rows - 1, columns], from y to y + 1."""
    up: Numbers

    @classmethod
    def to(cls, receivers: Tiles, mesh: Mesh, delivery: Delivery) -> "Spread":
        """A unicast link is crossed once for each receiver behind it, a multicast link once if there is any."""
        if delivery not in ("multicast", "unicast"):
            raise ValueError(f"delivery is {delivery!r}; wanted multicast or unicast")
        there = np.zeros((mesh.rows, mesh.columns))
        there[receivers[:, 1], receivers[:, 0]] = 1
        columns = there.sum(0)
        behind = _from(columns)[1:], columns.cumsum()[:-1], _from(there)[1:], there.cumsum(0)[:-1]
        return cls(*(np.minimum(part, 1) for part in behind) if delivery == "multicast" else behind)

    def hops(self, senders: Tiles) -> Numbers:
        """Links crossed by a spike of each sender, [senders]; a link counts once for each packet."""
        along, across = _both_ways(self.right, self.left), _both_ways(self.down.sum(1), self.up.sum(1))
        return along[senders[:, 0]] + across[senders[:, 1]]

    def loads(self, senders: Tiles, spikes: Numbers) -> Loads:
        """Packets over all links for so many spikes of each sender."""
        sent = np.zeros((len(self.down) + 1, len(self.right) + 1))
        sent[senders[:, 1], senders[:, 0]] = spikes
        rows = sent.sum(1)
        return Loads(
            sent.cumsum(1)[:, :-1] * self.right,
            _from(sent.T).T[:, 1:] * self.left,
            rows.cumsum()[:-1, None] * self.down,
            _from(rows)[1:, None] * self.up,
        )


def _from(values: Numbers) -> Numbers:
    """Sums of what stands at each place of the first axis and behind it."""
    return values[::-1].cumsum(0)[::-1]


def _both_ways(onwards: Numbers, backwards: Numbers) -> Numbers:
    """For each place: sums of what lies between it and the last, and between it and the first."""
    sums = np.zeros(len(onwards) + 1)
    sums[:-1] = _from(onwards)
    sums[1:] += backwards.cumsum()
    return sums
