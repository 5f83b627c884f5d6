"""Recordings of an event camera in one .npz file, made into frames.

For each part (train and test): `part_x`, `part_y`, `part_t` (microseconds, not falling within a recording) and `part_p`
(polarity, 0 or 1), integers [events]; `part_offsets` integers [N + 1], recording k is offsets[k] : offsets[k + 1];
`part_labels` integers [N]. The file may hold `sensor_hw`, the sensor's (H, W) in pixels, and class names as `classes`
or `names`.

Legend: N recordings, H W space, T frames, C polarities.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spimm.data.dataset import ImageData, in_memory
from spimm.data.frames import Framing, Stream
from spimm.data.packed import read_arrays, stored_classes
from spimm.data.recording import FIELDS
from spimm.data.split import ImageSplit

PARTS = ("train", "test")


@dataclass(frozen=True, eq=False)
class Events:
    """Recordings one after another: x, y, t, p int64 [events], offsets int64 [N + 1], all checked on construction.

    ValueError names the recording, the event within it and the value of the first that cannot be.
    """

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    offsets: np.ndarray

    def __post_init__(self) -> None:
        for name in FIELDS:
            values = _integers(getattr(self, name), name)
            if len(values) != len(self.x):
                raise ValueError(f"x, y, t and p must agree in length, got {len(self.x)} x and {len(values)} {name}")
            object.__setattr__(self, name, values)
        object.__setattr__(self, "offsets", _integers(self.offsets, "offsets"))
        self._check_offsets()
        for name in ("x", "y"):
            self._refuse(getattr(self, name) < 0, name, "0 or more")
        self._refuse((self.p != 0) & (self.p != 1), "p", "0 or 1")
        falls = np.append(False, np.diff(self.t) < 0)
        falls[self.offsets[:-1]] = False
        self._refuse(falls, "t", "not less than the event's before it")

    def __len__(self) -> int:
        """Recordings."""
        return len(self.offsets) - 1

    def check_sensor(self, height: int, width: int) -> None:
        """Raises ValueError for an event outside a sensor of this size."""
        for name, size in (("x", width), ("y", height)):
            self._refuse(getattr(self, name) >= size, name, f"in [0, {size}) for a sensor of {height} x {width} (H, W)")

    def frames(self, framing: Framing, height: int, width: int) -> np.ndarray:
        """Frames of every recording, uint8 [N, H, W, T, C], by `framing` for a sensor of this size."""
        events = (getattr(self, name) for name in FIELDS)
        return framing.together(Stream(*events, offsets=self.offsets, height=height, width=width))

    def _check_offsets(self) -> None:
        offsets, events = self.offsets, len(self.x)
        if len(offsets) < 2:
            raise ValueError(f"offsets must be integers [N + 1], N > 0, got {len(offsets)} of them")
        if (offsets[0], offsets[-1]) != (0, events):
            raise ValueError(f"offsets must go from 0 to {events} (events), got {offsets[0]} to {offsets[-1]}")
        lengths = np.diff(offsets)
        if lengths.min() < 1:
            index = int(np.argmax(lengths < 1))
            seen = f"offsets {offsets[index]} to {offsets[index + 1]}"
            raise ValueError(f"every recording must have an event, got none in recording {index} ({seen})")

    def _refuse(self, wrong: np.ndarray, name: str, wanted: str) -> None:
        if wrong.any():
            event = int(wrong.argmax())
            recording = int(np.searchsorted(self.offsets, event, side="right")) - 1
            where = f"recording {recording}, event {event - self.offsets[recording]}"
            raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)[event]} in {where}")


def load_events(path: Path, *, name: str, framing: Framing) -> ImageData:
    """The recordings in the .npz file at `path` as sequences of frames, in memory.

    The sensor's size is the file's `sensor_hw`, else the largest coordinates of both parts + 1. Normalised as
    `Framing.statistics` says. Raises FileNotFoundError for no file and ValueError for missing arrays or wrong content,
    naming part, recording and value.
    """
    arrays = read_arrays(path)
    wanted = [f"{part}_{key}" for part in PARTS for key in (*FIELDS, "offsets", "labels")]
    if not arrays.keys() >= set(wanted):
        raise ValueError(f"{path} holds the arrays {sorted(arrays)}, wanted {', '.join(wanted)}")
    events, splits = {}, []
    for part in PARTS:
        with _located(f"{path}, {part}"):
            events[part] = Events(*(arrays[f"{part}_{key}"] for key in (*FIELDS, "offsets")))
    with _located(str(path)):
        height, width = _sensor(arrays, list(events.values()))
    for part in PARTS:
        with _located(f"{path}, {part}"):
            events[part].check_sensor(height, width)
            framed = events[part].frames(framing, height, width)
            splits.append(ImageSplit.from_arrays(framed, arrays[f"{part}_labels"]))
    return in_memory(
        name,
        *splits,
        note=f"events of {path.name}, {framing}, its own split",
        class_names=stored_classes(arrays),
        statistics=framing.statistics,
    )


@contextmanager
def _located(where: str) -> Iterator[None]:
    """Puts `where` before the text of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _integers(values: np.ndarray, name: str) -> np.ndarray:
    if not np.issubdtype(values.dtype, np.integer) or values.ndim != 1:
        raise ValueError(f"{name} must be a list of integers, got {values.dtype} {list(values.shape)}")
    return values.astype(np.int64)


def _sensor(arrays: Mapping[str, np.ndarray], parts: list[Events]) -> tuple[int, int]:
    """(H, W) in pixels."""
    if "sensor_hw" not in arrays:
        return max(int(part.y.max()) for part in parts) + 1, max(int(part.x.max()) for part in parts) + 1
    size = _integers(arrays["sensor_hw"], "sensor_hw")
    if len(size) != 2 or size.min() < 1:
        raise ValueError(f"sensor_hw must be (height, width) in pixels, at least 1, got {size.tolist()}")
    return int(size[0]), int(size[1])
