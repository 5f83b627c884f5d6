"""AEDAT 2 files of jAER (.aedat): a text header, then 8 bytes an event, big-endian: u32 address, u32 microseconds.

Address of the DVS128: bit 15 external event, 14-8 y, 7-1 x, 0 polarity (0 where it got brighter).
Address of the DAVIS cameras: bit 31 frame or motion sample, 30-22 y, 21-12 x, 11 polarity (1 where it got brighter),
10 external event. Both count x from the right and y from the bottom; here they count from the top left, but for the
camera of CIFAR10-DVS, which stood on its side (see `mounted`).
Source: iniVation, AEDAT 2.0; the extractors of jAER, which its description of the DVS128's polarity contradicts.
"""

import numpy as np

from spimm.data.formats.aedat import CAMERAS, camera
from spimm.data.formats.mounted import LAST, upright_address
from spimm.data.formats.source import Decoded, Size, Source, unwrapped

_EVENT = np.dtype([("address", ">u4"), ("t", ">u4")])
_DVS128 = CAMERAS["dvs128"]
_EXTERNAL = 0x8000


def read_aedat2(source: Source) -> Decoded:
    """Polarity events only. The camera is that of the header's AEChip.

    Files without one are of a DAVIS where `source.sensor` is not a DVS128's, else they are taken for CIFAR10-DVS.
    """
    lines, start = source.header(b"#", "#endofasciiheader")
    name, size = camera(lines, "AEChip")
    if name is None and source.sensor in (None, _DVS128):
        return _dvs128(source, start, upright=True)
    if name is None:
        size = source.sensor
    if size is None:
        raise source.error(0, f"the header's AEChip must be one of {', '.join(CAMERAS)}, got {name!r}")
    return _dvs128(source, start, upright=False) if name == "dvs128" else _davis(source, start, size)


def read_aedat2_of_cifar10_dvs(source: Source) -> Decoded:
    """Polarity events of a file of CIFAR10-DVS, whatever camera its header names."""
    _, start = source.header(b"#", "#endofasciiheader")
    return _dvs128(source, start, upright=True)


def _dvs128(source: Source, start: int, *, upright: bool) -> Decoded:
    events = source.records(start, _EVENT)
    address, t = events["address"].astype(np.uint32), events["t"].astype(np.uint32)
    highest = int(address.max(initial=0))
    if highest > 0xFFFF:
        first = int((address > 0xFFFF).argmax())
        raise source.error(
            start + first * _EVENT.itemsize,
            f"a DVS128's address has 16 bits, got {address[first]:#x}; a DAVIS needs its sensor=(height, width)",
        )
    address, t = address.astype(np.uint16), unwrapped(t, 32)
    if highest >= _EXTERNAL:
        chosen = address < _EXTERNAL
        address, t = address[chosen], t[chosen]
    p = ~address.astype(np.uint8) & 1
    x, y = address >> 1 & 0x7F, address >> 8
    x, y = upright_address(x, y) if upright else (LAST - x, LAST - y)
    return Decoded(x, y, t, p, (_DVS128,))


def _davis(source: Source, start: int, size: Size) -> Decoded:
    events = source.records(start, _EVENT)
    address, t = events["address"].astype(np.uint32), unwrapped(events["t"].astype(np.uint32), 32)
    chosen = address & 0x80000400 == 0
    if not chosen.all():
        address, t = address[chosen], t[chosen]
    height, width = size
    x = width - 1 - (address >> 12 & 0x3FF).astype(np.int32)
    y = height - 1 - (address >> 22).astype(np.int32)
    return Decoded(x, y, t, (address >> 11 & 1).astype(np.uint8), (size,))
