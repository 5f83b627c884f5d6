"""Events that cannot be as they are, back in time or outside the sensor: left as they are, mended or left out, counted.

Legend: n events of N recordings one after another, recording k is offsets[k] : offsets[k + 1].
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np

from spimm.words import counted

Order = Literal["refuse", "sort", "drop"]
"""What becomes of events that are earlier than one before them."""
Bounds = Literal["refuse", "drop"]
"""What becomes of events outside the sensor."""


class Mended(NamedTuple):
    """Events that were back in time, and events outside the sensor."""

    late: int = 0
    outside: int = 0

    def plus(self, other: "Mended") -> "Mended":
        return Mended(self.late + other.late, self.outside + other.outside)


class Lists(NamedTuple):
    """x, y, t, p integers [n], offsets int64 [N + 1]."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    offsets: np.ndarray

    def kept(self, chosen: np.ndarray) -> "Lists":
        """The events at `chosen`, bool [n]."""
        before = np.append(0, np.cumsum(chosen))
        return Lists(*(values[chosen] for values in self[:4]), offsets=before[self.offsets])


NOTHING = Mended()


@dataclass(frozen=True)
class Mending:
    """What becomes of events that cannot be. `refuse` leaves them to the checks of `Recording`, which raise.

    out_of_order: `sort` sorts each recording by time, `drop` leaves out events that are earlier than one before them.
    out_of_bounds: `drop` leaves out events outside the sensor.
    """

    out_of_order: Order = "refuse"
    out_of_bounds: Bounds = "refuse"

    def __post_init__(self) -> None:
        for name, kind in (("out_of_order", Order), ("out_of_bounds", Bounds)):
            if getattr(self, name) not in get_args(kind):
                wanted = ", ".join(get_args(kind))
                raise ValueError(f"{name} must be one of {wanted}, got {getattr(self, name)!r}")

    def __call__(self, events: Lists, height: int, width: int) -> tuple[Lists, Mended]:
        """The events that may stay, and what was mended."""
        outside = late = 0
        if self.out_of_bounds == "drop":
            inside = (events.x >= 0) & (events.x < width) & (events.y >= 0) & (events.y < height)
            outside = len(inside) - int(np.count_nonzero(inside))
            events = events.kept(inside) if outside else events
        if self.out_of_order != "refuse":
            is_late = _late(events.t, events.offsets)
            late = int(np.count_nonzero(is_late))
            if late and self.out_of_order == "drop":
                events = events.kept(~is_late)
            elif late:
                recording = np.repeat(np.arange(len(events.offsets) - 1), np.diff(events.offsets))
                order = np.lexsort((events.t, recording))
                events = Lists(*(values[order] for values in events[:4]), offsets=events.offsets)
        return events, Mended(late, outside)

    def told(self, mended: Mended) -> str:
        """What was done, for people; empty if nothing."""
        done = {"sort": "sorted by time", "drop": "left out", "refuse": ""}[self.out_of_order]
        parts = [
            f"{counted(count, 'event')} {what}"
            for count, what in (
                (mended.late, f"back in time {done}"),
                (mended.outside, "outside the sensor left out"),
            )
            if count
        ]
        return ", ".join(parts)


REFUSE = Mending()


def _late(t: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether each event is earlier than one before it in its recording, bool [n]."""
    late = np.zeros(len(t), bool)
    falls = np.flatnonzero(t[1:] < t[:-1]) + 1
    for index in np.unique(np.searchsorted(offsets, falls, side="right") - 1):
        part = slice(offsets[index], offsets[index + 1])
        late[part] = t[part] < np.maximum.accumulate(t[part])
    return late
