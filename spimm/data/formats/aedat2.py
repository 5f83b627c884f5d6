"""AEDAT 2 files of jAER (.aedat): a text header, then 8 bytes an event, big-endian: u32 address, u32 microseconds.

Address of the DVS128: bit 15 external event, 14-8 y, 7-1 x, 0 polarity (0 where it got brighter).
Address of the DAVIS cameras: bit 31 frame or motion sample, 30-22 y, 21-12 x, 11 polarity (1 where it got brighter),
10 external event. Both count x from the right and y from the bottom; here they count from the top left.
Source: iniVation, AEDAT 2.0; the extractors of jAER, which its description of the DVS128's polarity contradicts.
"""

import numpy as np

from spimm.data.formats.aedat import CAMERAS, camera
from spimm.data.formats.source import Decoded, Size, Source, unwrapped

_EVENT = np.dtype([("address", ">u4"), ("t", ">u4")])


def read_aedat2(source: Source) -> Decoded:
    """Polarity events only. The camera is that of the header's AEChip.

    Files without one, such as those of CIFAR10-DVS, are of a DVS128, or of a DAVIS where `source.sensor` is another.
    """
    lines, start = source.header(b"#", "#endofasciiheader")
    name, size = camera(lines, "AEChip")
    if name is None:
        size = source.sensor or CAMERAS["dvs128"]
        name = "dvs128" if size == CAMERAS["dvs128"] else "davis"
    if size is None:
        raise source.error(0, f"the header's AEChip must be one of {', '.join(CAMERAS)}, got {name!r}")
    events = source.records(start, _EVENT)
    address = events["address"].astype(np.uint32)
    if name == "dvs128":
        return _dvs128(source, start, address, events["t"], size)
    return _davis(address, events["t"], size)


def _dvs128(source: Source, start: int, address: np.ndarray, t: np.ndarray, size: Size) -> Decoded:
    if len(address) and address.max() > 0xFFFF:
        first = int((address > 0xFFFF).argmax())
        raise source.error(
            start + first * _EVENT.itemsize,
            f"a DVS128's address has 16 bits, got {address[first]:#x}; a DAVIS needs its sensor=(height, width)",
        )
    chosen, t = address < 0x8000, unwrapped(t, 32)
    if not chosen.all():
        address, t = address[chosen], t[chosen]
    x, y = 127 - (address >> 1 & 0x7F), 127 - (address >> 8)
    return Decoded(x.astype(np.uint8), y.astype(np.uint8), t, (~address & 1).astype(np.uint8), (size,))


def _davis(address: np.ndarray, t: np.ndarray, size: Size) -> Decoded:
    chosen, t = address & 0x80000400 == 0, unwrapped(t, 32)
    if not chosen.all():
        address, t = address[chosen], t[chosen]
    height, width = size
    x = width - 1 - (address >> 12 & 0x3FF).astype(np.int16)
    y = height - 1 - (address >> 22).astype(np.int16)
    return Decoded(x, y, t, (address >> 11 & 1).astype(np.uint8), (size,))
