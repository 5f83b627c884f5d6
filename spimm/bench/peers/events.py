"""How others read event files and frame events: SpikingJelly's functions, and numpy as one writes it at first.

Legend: n events, T frames, H W space.
"""

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from spimm.bench.peers.libraries import spikingjelly_data

Split = Literal["time", "count"]
Arrays = dict[str, np.ndarray]
"""x, y, t, p, [n] each."""


class PeerEvents(ABC):
    """A library's readers, by the name of the format, and its framing."""

    readers: dict[str, Callable[[Path], Arrays]]

    @abstractmethod
    def frame(self, events: Arrays, split: Split, frames: int, height: int, width: int) -> np.ndarray:
        """Counts [T, 2, H, W]."""


class SpikingJellyEvents(PeerEvents):
    """The functions by which its data sets are read and made into frames."""

    def __init__(self) -> None:
        data = spikingjelly_data()
        self.utils = data.utils
        self.readers = {
            "atis": data.utils.load_ATIS_bin,
            "aedat3": data.utils.load_aedat_v3,
            "aedat2": data.cifar10_dvs._load_origin_data,
        }

    def frame(self, events: Arrays, split: Split, frames: int, height: int, width: int) -> np.ndarray:
        by = "number" if split == "count" else "time"
        return self.utils.integrate_events_by_fixed_frames_number(events, by, frames, height, width)


class NumpyEvents(PeerEvents):
    """Bytes taken apart in 64 bits without a check, and `np.add.at` into the frames."""

    def __init__(self) -> None:
        self.readers = {"atis": _atis, "aedat3": _aedat3, "aedat2": _aedat2}

    def frame(self, events: Arrays, split: Split, frames: int, height: int, width: int) -> np.ndarray:
        x, y, t, p = (events[name].astype(np.int64) for name in "xytp")
        if split == "time":
            step = np.minimum((t - t[0]) * frames // (t[-1] - t[0]), frames - 1)
        else:
            step = np.arange(len(t)) * frames // len(t)
        counts = np.zeros((frames, 2, height, width))
        np.add.at(counts, (step, p, y, x), 1)
        return counts


def _atis(path: Path) -> Arrays:
    data = np.fromfile(path, np.uint8).reshape(-1, 5).astype(np.int64)
    t = (data[:, 2] & 127) << 16 | data[:, 3] << 8 | data[:, 4]
    return {"x": data[:, 0], "y": data[:, 1], "t": t, "p": data[:, 2] >> 7}


def _aedat3(path: Path) -> Arrays:
    data = path.read_bytes()
    end = b"#!END-HEADER\r\n"
    offset, packets = data.index(end) + len(end), []
    while offset < len(data):
        kind, _, size, _, _, _, count, _ = struct.unpack_from("<HHIIIIII", data, offset)
        if kind == 1:
            packets.append(np.frombuffer(data, "<u4", 2 * count, offset + 28).reshape(-1, 2).astype(np.int64))
        offset += 28 + size * count
    address, t = np.concatenate(packets).T
    return {"x": address >> 17, "y": address >> 2 & 0x7FFF, "t": t, "p": address >> 1 & 1}


def _aedat2(path: Path) -> Arrays:
    data = path.read_bytes()
    offset = 0
    while data[offset : offset + 1] == b"#":
        offset = data.index(b"\n", offset) + 1
    address, t = np.frombuffer(data, ">u4", offset=offset).reshape(-1, 2).astype(np.int64).T
    return {"x": 127 - (address >> 8 & 127), "y": 127 - (address >> 1 & 127), "t": t, "p": 1 - (address & 1)}
