"""AEDAT 3.1 files of cAER (.aedat), DVS128 Gesture among them: a text header, then packets, little-endian.

A packet has 28 bytes of header: u16 type, u16 source, u32 bytes an event, u32 offset of the time in it, u32 overflow of
the time (2^31 us each), u32 capacity, u32 events, u32 valid events. Type 1 holds polarity events of 8 bytes: u32 with
bit 0 valid, 1 polarity, 16-2 y, 31-17 x from the top left, then int32 microseconds. Source: iniVation, AEDAT 3.1.
"""

import struct

import numpy as np

from spimm.data.formats.aedat import camera
from spimm.data.formats.source import Decoded, Source

POLARITY = 1

_PACKET = struct.Struct("<HHIIIIII")
_EVENT = np.dtype([("data", "<u4"), ("t", "<u4")])


def read_aedat3(source: Source) -> Decoded:
    """The valid polarity events of the only camera, or of the one whose source is numbered `source.stream`."""
    lines, start = source.header(b"#", "#!end-header")
    if not source.data.startswith(b"#!AER-DAT3.1"):
        raise source.error(0, f"expected AEDAT 3.1, got {lines[0] if lines else 'no header'}")
    if not lines or lines[-1].lower() != "#!end-header":
        raise source.error(start, "expected the header's last line #!END-HEADER, got data or the end of the file")
    layout = next((line.partition(":")[2].strip() for line in lines if line.lower().startswith("#format:")), "RAW")
    if layout != "RAW":
        raise source.error(0, f"expected packets in the format RAW, got {layout}")
    cameras = _packets(source, start)
    chosen = source.chosen(sorted(cameras))
    packets, overflows = ([], []) if chosen is None else cameras[chosen]
    events = np.frombuffer(b"".join(packets), _EVENT)
    t = events["t"].astype(np.int64)
    if any(overflows):
        t += np.repeat(np.array(overflows, np.int64) << 31, [len(packet) // _EVENT.itemsize for packet in packets])
    data = events["data"].astype(np.uint32)
    valid = (data & 1).astype(bool)
    if not valid.all():
        data, t = data[valid], t[valid]
    _, size = camera(lines, r"Source \d+" if chosen is None else f"Source {chosen}")
    x, y = (data >> 17).astype(np.uint16), (data >> 2 & 0x7FFF).astype(np.uint16)
    return Decoded(x, y, t, (data >> 1 & 1).astype(np.uint8), (size,) if size else ())


def _packets(source: Source, offset: int) -> dict[int, tuple[list[memoryview], list[int]]]:
    """By source, the bytes of its polarity packets and the overflows of their times."""
    data, cameras, events = memoryview(source.data), {}, 0
    while offset < len(data):
        if len(data) - offset < _PACKET.size:
            source.cut(offset, f"expected {_PACKET.size} bytes for a packet's header, got {len(data) - offset}", events)
            break
        kind, camera_id, size, _, overflow, _, count, _ = _PACKET.unpack_from(data, offset)
        if kind == POLARITY and size != _EVENT.itemsize:
            raise source.error(offset + 4, f"expected polarity events of {_EVENT.itemsize} bytes, got {size}")
        start, stated = offset + _PACKET.size, size * count
        whole = min(stated, len(data) - start) // size * size if size else 0
        if kind == POLARITY and whole:
            packets, overflows = cameras.setdefault(camera_id, ([], []))
            packets.append(data[start : start + whole])
            overflows.append(overflow)
            events += whole // size
        if whole < stated:
            source.cut(start + whole, f"expected {stated} bytes for a packet, got {len(data) - start}", events)
            break
        offset = start + stated
    return cameras
