"""Recordings of an event camera in one .npz file, made into frames.

For each part (train and test): `part_x`, `part_y`, `part_t` (microseconds, not falling within a recording) and `part_p`
(polarity, 0 or 1), integers [events]; `part_offsets` integers [N + 1], recording k is offsets[k] : offsets[k + 1];
`part_labels` integers [N]. The file may hold `sensor_hw`, the sensor's (H, W) in pixels, and class names as `classes`
or `names`.

Legend: N recordings, H W space, T frames, C polarities.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from spimm.data.dataset import ImageData, in_memory
from spimm.data.frames import Framing, Stream
from spimm.data.mend import NOTHING, REFUSE, Lists, Mended, Mending
from spimm.data.packed import read_arrays, stored_classes
from spimm.data.recording import FIELDS, LONGEST
from spimm.data.split import ImageSplit

logger = logging.getLogger("spimm.data")

PARTS = ("train", "test")
# Bytes of the frames of a part: so many, and so many more for each byte of the file.
_FRAMES, _GROWTH = 2**31, 2**13


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
            object.__setattr__(self, name, _integers(getattr(self, name), name))
        object.__setattr__(self, "offsets", _integers(self.offsets, "offsets"))
        self.check_offsets(self.offsets, [len(getattr(self, name)) for name in FIELDS])
        for name in ("x", "y"):
            self._refuse(getattr(self, name) < 0, name, "0 or more")
        self._refuse((self.p != 0) & (self.p != 1), "p", "0 or 1")
        self._refuse((self.t < -LONGEST) | (self.t > LONGEST), "t", "within 2^53 of 0")
        falls = np.append(False, np.diff(self.t) < 0)
        falls[self.offsets[:-1]] = False
        remedy = "out_of_order=sort sorts such events, out_of_order=drop leaves them out"
        self._refuse(falls, "t", "not less than the event's before it", remedy)

    def __len__(self) -> int:
        """Recordings."""
        return len(self.offsets) - 1

    def check_sensor(self, height: int, width: int) -> None:
        """Raises ValueError for an event outside a sensor of this size."""
        for name, size in (("x", width), ("y", height)):
            wanted = f"in [0, {size}) for a sensor of {height} x {width} (H, W)"
            self._refuse(getattr(self, name) >= size, name, wanted, "out_of_bounds=drop leaves out such events")

    def frames(self, framing: Framing, height: int, width: int) -> np.ndarray:
        """Frames of every recording, uint8 [N, H, W, T, C], by `framing` for a sensor of this size."""
        events = (getattr(self, name) for name in FIELDS)
        return framing.together(Stream(*events, offsets=self.offsets, height=height, width=width))

    @staticmethod
    def check_offsets(offsets: np.ndarray, lengths: list[int]) -> None:
        """Raises ValueError for offsets [N + 1] that do not cut lists of these lengths into recordings with events."""
        events = lengths[0]
        for name, length in zip(FIELDS, lengths, strict=True):
            if length != events:
                raise ValueError(f"x, y, t and p must agree in length, got {events} x and {length} {name}")
        if len(offsets) < 2:
            raise ValueError(f"offsets must be integers [N + 1], N > 0, got {len(offsets)} of them")
        if (offsets[0], offsets[-1]) != (0, events):
            raise ValueError(f"offsets must go from 0 to {events} (events), got {offsets[0]} to {offsets[-1]}")
        counts = np.diff(offsets)
        if counts.min() < 1:
            index = int(np.argmax(counts < 1))
            seen = f"offsets {offsets[index]} to {offsets[index + 1]}"
            raise ValueError(f"every recording must have an event, got none in recording {index} ({seen})")

    def _refuse(self, wrong: np.ndarray, name: str, wanted: str, remedy: str = "") -> None:
        if wrong.any():
            event = int(wrong.argmax())
            recording = int(np.searchsorted(self.offsets, event, side="right")) - 1
            where = f"recording {recording}, event {event - self.offsets[recording]}"
            seen = f"got {getattr(self, name)[event]} in {where}"
            raise ValueError(f"{name} must be {wanted}, {seen}{remedy and '; '}{remedy}")


def load_events(path: Path, *, name: str, framing: Framing, mending: Mending = REFUSE) -> ImageData:
    """The recordings in the .npz file at `path` as sequences of frames, in memory.

    The sensor's size is the file's `sensor_hw`, else the largest coordinates of both parts + 1. Normalised as
    `Framing.statistics` says. mending: what becomes of events that cannot be; what it did is in the note, and logged.
    Raises FileNotFoundError for no file and ValueError for missing arrays or wrong content,
    naming part, recording and value.
    """
    arrays = read_arrays(path)
    wanted = [f"{part}_{key}" for part in PARTS for key in (*FIELDS, "offsets", "labels")]
    if not arrays.keys() >= set(wanted):
        seen = [key[:40] for key in sorted(arrays)[:20]]
        raise ValueError(f"{path} holds the arrays {seen}, wanted {', '.join(wanted)}")
    lists = {}
    for part in PARTS:
        with _located(f"{path}, {part}"):
            lists[part] = Lists(*(_integers(arrays[f"{part}_{key}"], key) for key in (*FIELDS, "offsets")))
    with _located(str(path)):
        height, width = _sensor(arrays, list(lists.values()))
    splits, total = [], NOTHING
    for part in PARTS:
        with _located(f"{path}, {part}"):
            _check_size(framing, height, width, len(lists[part].offsets) - 1, path.stat().st_size)
            events, mended = _mended(lists[part], mending, height, width)
            events.check_sensor(height, width)
            splits.append(ImageSplit.from_arrays(events.frames(framing, height, width), arrays[f"{part}_labels"]))
        total = total.plus(mended)
    note = f"events of {path.name}, {framing}, its own split"
    if any(total):
        logger.warning("%s: %s", name, mending.told(total))
        note = f"{note}; {mending.told(total)}"
    names = stored_classes(arrays)
    return in_memory(name, *splits, note=note, class_names=names, statistics=framing.statistics)


def _mended(lists: Lists, mending: Mending, height: int, width: int) -> tuple[Events, Mended]:
    """The events, checked."""
    mended = NOTHING
    if mending != REFUSE:
        Events.check_offsets(lists.offsets, [len(values) for values in lists[:4]])
        lists, mended = mending(lists, height, width)
    return Events(*lists), mended


def _check_size(framing: Framing, height: int, width: int, recordings: int, size: int) -> None:
    """ValueError for frames of far more bytes than a file of `size` bytes may mean."""
    needed, most = recordings * math.prod(framing.shape(height, width)), _FRAMES + _GROWTH * size
    if needed > most:
        seen = f"{needed} for {recordings} recordings of a sensor of {height} x {width} (H, W)"
        raise ValueError(f"frames must take at most {most} bytes, got {seen}; sensor_size=SIDE shrinks them")


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


def _sensor(arrays: Mapping[str, np.ndarray], parts: list[Lists]) -> tuple[int, int]:
    """(H, W) in pixels."""
    if "sensor_hw" in arrays:
        size = _integers(arrays["sensor_hw"], "sensor_hw")
        if len(size) != 2:
            raise ValueError(f"sensor_hw must be (height, width) in pixels, got {len(size)} numbers")
        height, width = size.tolist()
        what = "sensor_hw must be (height, width)"
    else:
        height = 1 + max(int(part.y.max(initial=0)) for part in parts)
        width = 1 + max(int(part.x.max(initial=0)) for part in parts)
        what = "without sensor_hw the largest y and x + 1 are (height, width), which must be"
    if not (1 <= height <= 2**16 and 1 <= width <= 2**16):
        raise ValueError(f"{what} of 1 to 65536 pixels, got {[height, width]}")
    return height, width
