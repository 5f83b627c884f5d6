"""The formats read as their descriptions tell it, one event after another: what the readers are compared with.

Each takes the bytes of a file and gives the list of its events as (x, y, t, p).
"""

import struct

Events = list[tuple[int, int, int, int]]


def after_lines(data: bytes, mark: bytes, last: bytes) -> int:
    """Where data begin behind lines with this mark, of which one may be the last."""
    offset = 0
    while data[offset : offset + len(mark)] == mark:
        end = data.index(b"\n", offset) + 1
        line = data[offset:end].strip()
        offset = end
        if line == last:
            break
    return offset


def atis(data: bytes) -> Events:
    events, later = [], 0
    for at in range(0, len(data), 5):
        x, y, high, middle, low = data[at : at + 5]
        if y == 240:
            later += 8192
        else:
            events.append((x, y, ((high & 127) << 16 | middle << 8 | low) + later, high >> 7))
    return events


def aedat2(data: bytes) -> Events:
    """Of a DVS128."""
    events = []
    for address, t in struct.iter_unpack(">II", data[after_lines(data, b"#", b"#End Of ASCII Header") :]):
        if not address & 0x8000:
            events.append((127 - (address >> 1) % 128, 127 - (address >> 8) % 128, t, 1 - address % 2))
    return events


def aedat3(data: bytes) -> Events:
    events, at = [], after_lines(data, b"#", b"#!END-HEADER")
    while at < len(data):
        kind, _, size, _, overflow, _, count, _ = struct.unpack_from("<HHIIIIII", data, at)
        at += 28
        for _ in range(count):
            if kind == 1:
                word, t = struct.unpack_from("<Ii", data, at)
                if word & 1:
                    events.append((word >> 17, word >> 2 & 0x7FFF, t + overflow * 2**31, word >> 1 & 1))
            at += size
    return events


def aedat4(data: bytes, stream: int = 0) -> Events:
    """Uncompressed or LZ4, told by the magic number of each packet."""
    events, at = [], 18 + int.from_bytes(data[14:18], "little")
    root = 18 + int.from_bytes(data[18:22], "little")
    vtable = root - struct.unpack_from("<i", data, root)[0]
    (table,) = struct.unpack_from("<q", data, root + struct.unpack_from("<H", data, vtable + 6)[0])
    while at < table:
        number, size = struct.unpack_from("<ii", data, at)
        packet, at = data[at + 8 : at + 8 + size], at + 8 + size
        if number != stream:
            continue
        if packet[:4] == b"\x04\x22\x4d\x18":
            import lz4.frame

            packet = lz4.frame.decompress(packet)
        root = 4 + struct.unpack_from("<I", packet, 4)[0]
        vtable = root - struct.unpack_from("<i", packet, root)[0]
        field = root + struct.unpack_from("<H", packet, vtable + 4)[0]
        items = field + struct.unpack_from("<I", packet, field)[0]
        for index in range(struct.unpack_from("<I", packet, items)[0]):
            t, x, y, p = struct.unpack_from("<qhhB", packet, items + 4 + 16 * index)
            events.append((x, y, t, p))
    return events


def dat(data: bytes) -> Events:
    start = after_lines(data, b"% ", b"% end") + 2
    return [(word % 2**14, word >> 14 & 0x3FFF, t, word >> 28) for t, word in struct.iter_unpack("<II", data[start:])]


def evt2(data: bytes) -> Events:
    events, high = [], None
    for (word,) in struct.iter_unpack("<I", data[after_lines(data, b"% ", b"% end") :]):
        if word >> 28 == 8:
            stated = word & 0xFFFFFFF
            high = stated if high is None else high + (stated - high % 2**28) % 2**28
        elif word >> 28 < 2 and high is not None:
            events.append((word >> 11 & 0x7FF, word & 0x7FF, high * 64 + (word >> 22 & 63), word >> 28))
    return events


def evt3(data: bytes) -> Events:
    """For time that does not fall."""
    events, high, low, y, base, polarity = [], None, 0, None, None, 0
    for (word,) in struct.iter_unpack("<H", data[after_lines(data, b"% ", b"% end") :]):
        kind, value = word >> 12, word & 0xFFF
        pixels = []
        if kind == 0:
            y = value & 0x7FF
        elif kind == 2:
            pixels = [(value & 0x7FF, value >> 11)]
        elif kind == 3:
            base, polarity = value & 0x7FF, value >> 11
        elif kind in (4, 5) and base is not None:
            width = 12 if kind == 4 else 8
            pixels = [(base + bit, polarity) for bit in range(width) if value >> bit & 1]
            base += width
        elif kind == 6:
            low = value
        elif kind == 8:
            if high is None or value != high % 4096:
                low = 0
            high = value if high is None else high + (value - high) % 4096
        if high is not None and y is not None:
            events += [(x, y, high * 4096 + low, p) for x, p in pixels]
    return events


def es(data: bytes) -> Events:
    events, at, t = [], 20, 0
    while at < len(data):
        byte = data[at]
        at += 1
        if byte == 255:
            t += 127
        elif byte != 254:
            t += byte >> 1
            events.append((*struct.unpack_from("<HH", data, at), t, byte & 1))
            at += 4
    return events
