"""Files of an event camera, listed with their labels, as a data set of frames."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.formats import EventFileError, Format, read_mended
from spimm.data.frame_cache import FrameWriter
from spimm.data.framed import fingerprint, load_framed, refuse_or_skip
from spimm.data.frames import Framing, Stream
from spimm.data.mend import REFUSE, Mended, Mending
from spimm.data.recording import Recording

# Events that are framed together at most, but for those of a single file.
EVENTS_TOGETHER = 2**20
# Bytes of the frames that are made together at most, but for those of a single recording.
FRAMES_TOGETHER = 2**28


class Item(NamedTuple):
    """A labelled recording: a file, or its events in [start, stop) microseconds."""

    path: Path
    label: int
    window: tuple[int, int] | None = None


@dataclass(frozen=True, eq=False)
class EventFiles:
    """The recordings of a data set and their split. size: (H, W) of the sensor; None asks the files.

    note: where the split comes from. format: of all files; None finds each file's. stream: which of several cameras in
    a file. mending: what becomes of events that cannot be.
    """

    root: Path
    class_names: tuple[str, ...]
    train: Sequence[Item]
    test: Sequence[Item]
    size: tuple[int, int] | None
    note: str
    format: Format | None = None
    stream: int | None = None
    mending: Mending = REFUSE
    val: Sequence[Item] = ()
    """Recordings that choose the best epoch, where the set has them."""

    @cached_property
    def sensor(self) -> tuple[int, int]:
        """(H, W): without `size`, what holds the sensors of all files that can be read."""
        if self.size is not None:
            return self.size
        sizes, unreadable = [], ""
        for path in dict.fromkeys(item.path for item in (*self.train, *self.test, *self.val)):
            try:
                recording, _ = self._read(path, None)
            except EventFileError as error:  # refused or skipped when it is framed
                unreadable = unreadable or str(error)
                continue
            sizes.append((recording.height, recording.width))
        if not sizes:
            raise ValueError(f"no recording of {self.root} can be read: {unreadable}")
        height, width = (max(sides) for sides in zip(*sizes, strict=True))
        return height, width

    def load(self, name: str, framing: Framing, *, corrupt: Corrupt, cache_dir: str | Path | None) -> ImageData:
        """The set as frames, mapped from the cache. Settings and errors as in `load_framed`."""
        items = {"train": self.train, "test": self.test} | ({"val": self.val} if self.val else {})
        facts = {
            "sensor": self.size,
            "reading": [self.format, self.stream, asdict(self.mending)],
            "framing": asdict(framing),
            "items": {
                part: [[*fingerprint(item.path, self.root), *item[1:]] for item in listed]
                for part, listed in items.items()
            },
        }
        return load_framed(
            name,
            {part: partial(self._frame, listed, framing, corrupt) for part, listed in items.items()},
            lambda: framing.shape(*self.sensor),
            facts,
            class_names=self.class_names,
            statistics=framing.statistics,
            note=f"events of {self.root.name}/, {framing}, {self.note}",
            corrupt=corrupt,
            cache_dir=cache_dir,
            mending=self.mending,
        )

    def _read(self, path: Path, sensor: tuple[int, int] | None) -> tuple[Recording, Mended]:
        return read_mended(path, self.mending, format=self.format, sensor=sensor, stream=self.stream)

    def _frame(self, items: Sequence[Item], framing: Framing, corrupt: Corrupt, writer: FrameWriter) -> None:
        together: list[Recording] = []
        labels: list[int] = []
        most = max(FRAMES_TOGETHER // math.prod(writer.shape), 1)

        def write() -> None:
            if together:
                writer.add(framing.together(Stream.of(together)), labels)
            together.clear()
            labels.clear()

        for path, group in groupby(items, key=lambda item: item.path):
            try:
                whole, mended = self._read(path, self.sensor)
            except EventFileError as error:
                refuse_or_skip(writer, str(error), corrupt)
                continue
            writer.mend(mended)
            for item in group:
                window = item.window
                recording = whole if window is None else whole.between(*window)
                if not len(recording):
                    within = "" if window is None else f" from {window[0]} to {window[1]} us"
                    refuse_or_skip(writer, f"{path}: holds no events{within}", corrupt)
                    continue
                if len(together) == most or sum(map(len, together)) + len(recording) > EVENTS_TOGETHER:
                    write()
                together.append(recording)
                labels.append(item.label)
        write()
