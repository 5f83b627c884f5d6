"""One recording of an event camera: what every file reader gives and every frame builder takes."""

from dataclasses import dataclass

import numpy as np

FIELDS = ("x", "y", "t", "p")
_TYPES = {"x": np.uint16, "y": np.uint16, "t": np.int64, "p": np.uint8}


@dataclass(frozen=True, eq=False)
class Recording:
    """Events in the order of time, checked on construction.

    x, y: uint16 [n], pixels from the top left. t: int64 [n], microseconds, not falling. p: uint8 [n], polarity, 1 where
    it got brighter, else 0. height, width: the sensor in pixels. Other integers (or bool for p) are converted;
    ValueError names the first event that cannot be. A recording may be empty.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    height: int
    width: int

    def __post_init__(self) -> None:
        for name, size in (("height", self.height), ("width", self.width)):
            if not 1 <= size <= 2**16:
                raise ValueError(f"{name} must lie in [1, 65536] pixels, got {size}")
        for name in FIELDS:
            values = getattr(self, name)
            if values.ndim != 1 or values.dtype.kind not in "iub":
                raise ValueError(f"{name} must be a list of integers, got {values.dtype} {list(values.shape)}")
            if len(values) != len(self.x):
                raise ValueError(f"x, y, t and p must agree in length, got {len(self.x)} x and {len(values)} {name}")
        pixel = f"for a sensor of {self.height} x {self.width} (H, W)"
        self._check_range("x", self.width, f"in [0, {self.width}) {pixel}")
        self._check_range("y", self.height, f"in [0, {self.height}) {pixel}")
        self._check_range("p", 2, "0 or 1")
        if self.t.dtype == np.uint64:
            self._check_range("t", 2**63, "below 2^63")
        for name, kind in _TYPES.items():
            object.__setattr__(self, name, getattr(self, name).astype(kind, copy=False))
        falls = self.t[1:] < self.t[:-1]
        if falls.any():
            self._refuse(int(falls.argmax()) + 1, "t", "not less than the event's before it")

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
        if len(values) and (values.min() < 0 or values.max() >= limit):
            self._refuse(int(((values < 0) | (values >= limit)).argmax()), name, wanted)

    def _refuse(self, event: int, name: str, wanted: str) -> None:
        raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)[event]} in event {event}")
