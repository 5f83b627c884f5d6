"""One recording of an event camera: what every file reader returns and every frame builder takes."""

from dataclasses import dataclass

import numpy as np

FIELDS = ("x", "y", "t", "p")
_TYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}
LONGEST = 2**53
"""Times lie within so many microseconds of 0: 285 years, in which clocks count from 1970 as well."""


@dataclass(frozen=True, eq=False)
class Recording:
    """Events in the order of time, checked on construction.

    x, y: uint16 [n], pixels from the top left. t: int64 [n], microseconds, not falling, within LONGEST of 0. p: uint8
    [n], polarity, 1 where it got brighter, else 0. height, width: the sensor in pixels. Other integers (or bool) are
    converted; ValueError names the first event that cannot be. A recording may be empty.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    height: int
    width: int

    def __post_init__(self) -> None:
        if not self._in_order():
            self._convert()

    def _in_order(self) -> bool:
        """Whether all is as it must be: types, lengths, ranges, order."""
        x, y, t, p = self.x, self.y, self.t, self.p
        typed = x.dtype == y.dtype == np.uint16 and t.dtype == np.int64 and p.dtype == np.uint8
        sized = 1 <= self.height <= 2**16 and 1 <= self.width <= 2**16
        if not (typed and sized and x.ndim == 1 and x.shape == y.shape == t.shape == p.shape):
            return False
        if not len(x):
            return True
        highest = np.maximum.reduce
        inside = highest(x) < self.width and highest(y) < self.height and highest(p) < 2
        return bool(inside and t[0] >= -LONGEST and t[-1] <= LONGEST and not np.logical_or.reduce(t[1:] < t[:-1]))

    def _convert(self) -> None:
        """Converts what can be. ValueError names the first event that cannot."""
        for name, size in (("height", self.height), ("width", self.width)):
            if not 1 <= size <= 2**16:
                raise ValueError(f"{name} must lie in [1, 65536] pixels, got {size}")
        for name in FIELDS:
            values = getattr(self, name)
            if values.dtype.kind == "b":  # a byte of a file may be other than 0 and 1
                object.__setattr__(self, name, values.view(np.uint8))
            if values.ndim != 1 or values.dtype.kind not in "iub":
                raise ValueError(f"{name} must be a list of integers, got {values.dtype} {list(values.shape)}")
            if len(values) != len(self.x):
                raise ValueError(f"x, y, t and p must agree in length, got {len(self.x)} x and {len(values)} {name}")
        pixel = "in [0, {}) for a sensor of " + f"{self.height} x {self.width} (H, W)"
        self._check_range("x", self.width, pixel)
        self._check_range("y", self.height, pixel)
        self._check_range("p", 2, "0 or 1")
        if self.t.dtype == np.uint64:
            self._check_range("t", LONGEST, "within 2^53 of 0")
        for name, kind in _TYPES.items():
            if getattr(self, name).dtype != kind:
                object.__setattr__(self, name, getattr(self, name).astype(kind))
        falls = self.t[1:] < self.t[:-1]
        if falls.any():
            event = int(falls.argmax()) + 1
            seen = f"{self.t[event]} after {self.t[event - 1]} in event {event}, {int(falls.sum())} in all"
            raise ValueError(f"t must not fall, got {seen}")
        if len(self.t) and not (self.t[0] >= -LONGEST and self.t[-1] <= LONGEST):  # and so all between
            self._refuse(0 if self.t[0] < -LONGEST else len(self.t) - 1, "t", "within 2^53 of 0")

    def __len__(self) -> int:
        """Events."""
        return len(self.x)

    @property
    def duration(self) -> int:
        """Microseconds from the first event to the last, 0 for fewer than two."""
        return int(self.t[-1] - self.t[0]) if len(self) else 0

    def take(self, chosen: np.ndarray | slice) -> "Recording":
        """The events at `chosen` (mask, indices that rise, or slice)."""
        return Recording(*(getattr(self, name)[chosen] for name in FIELDS), height=self.height, width=self.width)

    def between(self, start: int, stop: int) -> "Recording":
        """The events with times in [start, stop) microseconds."""
        return self.take(slice(*np.searchsorted(self.t, (start, stop))))

    def _check_range(self, name: str, limit: int, wanted: str) -> None:
        values = getattr(self, name)
        if len(values) and (values.max() >= limit or (values.dtype.kind == "i" and values.min() < 0)):
            self._refuse(int(((values < 0) | (values >= limit)).argmax()), name, wanted.format(limit))

    def _refuse(self, event: int, name: str, wanted: str) -> None:
        raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)[event]} in event {event}")
