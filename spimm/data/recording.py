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
        for name, limit in (("x", self.width), ("y", self.height), ("p", 2)):
            values = getattr(self, name)
            wanted = "0 or 1" if name == "p" else f"in [0, {limit}) for a sensor of {self.height} x {self.width} (H, W)"
            self._refuse((values < 0) | (values >= limit), name, wanted)
        for name, kind in _TYPES.items():
            object.__setattr__(self, name, getattr(self, name).astype(kind, copy=False))
        if len(self) > 1:
            self._refuse(np.append(False, self.t[1:] < self.t[:-1]), "t", "not less than the event's before it")

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

    def _refuse(self, wrong: np.ndarray, name: str, wanted: str) -> None:
        if wrong.any():
            event = int(wrong.argmax())
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)[event]} in event {event}")
