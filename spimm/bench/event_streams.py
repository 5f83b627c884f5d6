"""Recordings like those of event cameras, and the files that hold them.

Events come in bursts, as when the camera moves, from the middle of the sensor rather than from its rim.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from spimm.data import Recording

BURSTS = 3
PACKET = 4096
"""Events of a packet of AEDAT 3.1."""


def like_recording(events: int, duration: int, side: int, seed: int) -> Recording:
    """`events` in `duration` microseconds from 0 on a sensor of side x side. Every hundredth of the time has events."""
    random = np.random.default_rng(seed)
    burst = (random.integers(0, BURSTS, events) + random.beta(2, 2, events)) / BURSTS
    t = np.sort((burst * duration).astype(np.int64))
    spread = np.linspace(0, duration, 101).astype(np.int64)  # no hundredth is empty, and the ends are exact
    t[np.searchsorted(t, spread[1:-1]).clip(1, events - 2)] = spread[1:-1]
    t[0], t[-1] = 0, duration
    t.sort()
    x, y = (random.normal(side / 2, side / 5, (2, events))).astype(np.int64) % side
    return Recording(x, y, t, random.integers(0, 2, events), side, side)


def _atis(path: Path, one: Recording) -> None:
    t = one.t.astype(np.uint32)
    bytes_of_event = (one.x, one.y, one.p.astype(np.uint32) << 7 | t >> 16, t >> 8 & 255, t & 255)
    path.write_bytes(np.stack(bytes_of_event, axis=1).astype(np.uint8).tobytes())


def _aedat2(path: Path, one: Recording) -> None:
    """As in CIFAR10-DVS, whose camera stood on its side."""
    x, y, t, p = (getattr(one, name).astype(np.uint32) for name in "xytp")
    words = np.stack(((127 - x) << 8 | (127 - y) << 1 | 1 - p, t), axis=1).astype(">u4")
    path.write_bytes(b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n" + words.tobytes())


def _aedat3(path: Path, one: Recording) -> None:
    x, y, t, p = (getattr(one, name).astype(np.uint32) for name in "xytp")
    words = np.stack((x << 17 | y << 2 | p << 1 | 1, t), axis=1).astype("<u4")
    data = b"#!AER-DAT3.1\r\n#Format: RAW\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n"
    for start in range(0, len(words), PACKET):
        packet = words[start : start + PACKET]
        data += struct.pack("<HHIIIIII", 1, 1, 8, 4, 0, *[len(packet)] * 3) + packet.tobytes()
    path.write_bytes(data)


WRITERS: dict[str, Callable[[Path, Recording], None]] = {"atis": _atis, "aedat2": _aedat2, "aedat3": _aedat3}
