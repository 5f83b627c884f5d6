"""Writers of small event files in each format; `events` is a `Recording`."""

import io
import struct
import zlib

import numpy as np

from spimm.data import Recording


def random_events(count: int = 300, height: int = 34, width: int = 34, seed: int = 0, span: int = 300_000) -> Recording:
    random = np.random.default_rng(seed)
    t = np.sort(random.integers(0, span, count))
    x, y = random.integers(0, width, count), random.integers(0, height, count)
    return Recording(x, y, t, random.integers(0, 2, count), height, width)


def rows(events: Recording) -> list[tuple[int, int, int, int]]:
    return list(zip(*(getattr(events, name).tolist() for name in "xytp"), strict=True))


def atis(events: Recording) -> bytes:
    """An overflow event for every 2^13 us: times of events count from the latest."""
    data, later = b"", 0
    for x, y, t, p in rows(events):
        while t - later >= 2**13:
            data += bytes([0, 240, 0, 0, 0])
            later += 2**13
        data += bytes([x, y]) + (p << 23 | t - later).to_bytes(3, "big")
    return data


def aedat2(events: Recording, chip: str | None = "ch.unizh.ini.jaer.chip.retina.DVS128") -> bytes:
    """Without a chip as in CIFAR10-DVS, whose camera stood on its side."""
    lines = ["#!AER-DAT2.0", "# This is a raw AE data file - do not edit", *([f"# AEChip: {chip}"] if chip else [])]
    data = "".join(f"{line}\r\n" for line in lines).encode()
    if chip is None:
        words = [((127 - x) << 8 | (127 - y) << 1 | 1 - p, t) for x, y, t, p in rows(events)]
    elif chip.endswith("DVS128"):
        words = [((127 - y) << 8 | (127 - x) << 1 | 1 - p, t) for x, y, t, p in rows(events)]
    else:
        height, width = events.height, events.width
        words = [((height - 1 - y) << 22 | (width - 1 - x) << 12 | p << 11, t) for x, y, t, p in rows(events)]
    return data + b"".join(struct.pack(">II", address, t % 2**32) for address, t in words)


def cifar10_dvs(events: Recording) -> bytes:
    return aedat2(events, chip=None)


def aedat3(events: Recording, packet: int = 64) -> bytes:
    lines = ["#!AER-DAT3.1", "#Format: RAW", "#Source 1: DVS128", "#Start-Time: 2016-02-18 14:57:52", "#!END-HEADER"]
    data, chunks = "".join(f"{line}\r\n" for line in lines).encode(), rows(events)
    for start in range(0, len(chunks), packet):
        part = chunks[start : start + packet]
        data += aedat3_packet(1, [struct.pack("<Ii", x << 17 | y << 2 | p << 1 | 1, t) for x, y, t, p in part])
    return data


def aedat3_packet(kind: int, items: list[bytes], overflow: int = 0, source: int = 1) -> bytes:
    size = len(items[0])
    header = struct.pack("<HHIIIIII", kind, source, size, 4, overflow, len(items), len(items), len(items))
    return header + b"".join(items)


def flat_buffer(name: bytes, fields: list[bytes | tuple[str, int]]) -> bytes:
    """A table of numbers (kind, value) and lists (bytes that begin with their length), with its size before it."""
    vtable_size, table_size = 4 + 2 * len(fields), 4 + 8 * len(fields)
    table_at = 8 + vtable_size
    vtable = struct.pack(f"<{2 + len(fields)}H", vtable_size, table_size, *(4 + 8 * i for i in range(len(fields))))
    table, lists = struct.pack("<i", vtable_size), b""
    for index, field in enumerate(fields):
        if isinstance(field, tuple):
            table += struct.pack(f"<{field[0]}", field[1]).ljust(8, b"\0")
        else:
            distance = table_size - 4 - 8 * index + len(lists)
            table += struct.pack("<I", distance).ljust(8, b"\0")
            lists += field
    body = struct.pack("<I", table_at) + name + vtable + table + lists
    return struct.pack("<I", len(body)) + body


def aedat4(events: Recording, method: int = 0, packet: int = 64, streams: tuple[str, ...] = ("EVTS", "IMUS")) -> bytes:
    """method: the compression; a packet of the second stream lies between those of the first."""
    info = f'<node name="info"><attr key="sizeX">{events.width}</attr><attr key="sizeY">{events.height}</attr></node>'
    nodes = "".join(
        f'<node name="{number}"><attr key="typeIdentifier">{kind}</attr>{info}</node>'
        for number, kind in enumerate(streams)
    )
    xml = f'<dv version="2.0"><node name="outInfo">{nodes}</node></dv>'.encode()
    data, chunks = b"", rows(events)
    for start in range(0, len(chunks), packet):
        part = chunks[start : start + packet]
        items = b"".join(struct.pack("<qhhB3x", t, x, y, p) for x, y, t, p in part)
        for number, name in enumerate((b"EVTS", b"IMUS")):
            body = compress(flat_buffer(name, [struct.pack("<I", len(part)) + items]), method)
            data += struct.pack("<ii", number, len(body)) + body
    fields = [("b", method), ("q", -1), struct.pack("<I", len(xml)) + xml]
    before = len(flat_buffer(b"IOHE", fields)) + 14
    fields[1] = ("q", before + len(data))
    return b"#!AER-DAT4.0\r\n" + flat_buffer(b"IOHE", fields) + data + b"the table of packets"


def compress(data: bytes, method: int) -> bytes:
    if method in (1, 2):
        import lz4.frame

        return lz4.frame.compress(data)
    if method in (3, 4):
        import zstandard

        return zstandard.compress(data)
    return data


def dat(events: Recording, kind: int = 12) -> bytes:
    header = f"% Data file containing CD events.\n% Version 2\n% Height {events.height}\n% Width {events.width}\n"
    words = b"".join(struct.pack("<II", t % 2**32, x | y << 14 | p << 28) for x, y, t, p in rows(events))
    return header.encode() + bytes([kind, 8]) + words


def raw(name: str, height: int, width: int, words: bytes) -> bytes:
    lines = [f"evt {name}.0", f"format EVT{name};height={height};width={width}", "endianness little", "end"]
    return "".join(f"% {line}\n" for line in lines).encode() + words


def evt2(events: Recording) -> bytes:
    words, high = [], None
    for x, y, t, p in rows(events):
        if t >> 6 != high:
            high = t >> 6
            words.append(8 << 28 | high % 2**28)
        words.append(p << 28 | (t & 63) << 22 | x << 11 | y)
    return raw("2", events.height, events.width, struct.pack(f"<{len(words)}I", *words))


def evt3(events: Recording) -> bytes:
    """One word for each event; vectors are for a test of their own."""
    words, high, low = [], None, None
    for x, y, t, p in rows(events):
        if t >> 12 != high:
            high, low = t >> 12, None
            words.append(8 << 12 | high % 4096)
        if t & 0xFFF != low:
            low = t & 0xFFF
            words.append(6 << 12 | low)
        words += [y, 2 << 12 | p << 11 | x]
    return raw("3", events.height, events.width, struct.pack(f"<{len(words)}H", *words))


def es(events: Recording) -> bytes:
    data, before = b"Event Stream" + struct.pack("<BBBBHH", 2, 0, 0, 1, events.width, events.height), 0
    for x, y, t, p in rows(events):
        idle, rest = divmod(t - before, 127)
        data += b"\xff" * idle + b"\xfe" * (t % 3 == 0) + struct.pack("<BHH", rest << 1 | p, x, y)
        before = t
    return data


def mat(events: Recording, compressed: bool = True) -> bytes:
    """A matrix [n, 4] of dat2mat with t, x, y, p, its camera on its side; scipy writes the other kinds in the tests."""
    columns = np.stack([events.t, events.y, 127 - events.x.astype(int), events.p], axis=1).astype("<f8")
    parts = [
        (6, struct.pack("<II", 6, 0)),
        (5, struct.pack("<ii", *columns.shape)),
        (1, b"out1"),
        (9, columns.tobytes(order="F")),
    ]
    element = mat_element(14, b"".join(mat_element(kind, content) for kind, content in parts))
    if compressed:
        packed = zlib.compress(element)
        element = struct.pack("<II", 15, len(packed)) + packed
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + element


def mat_element(kind: int, content: bytes) -> bytes:
    return struct.pack("<II", kind, len(content)) + content.ljust(-(-len(content) // 8) * 8, b"\0")


def npz(events: Recording) -> bytes:
    file = io.BytesIO()
    arrays = {name: getattr(events, name) for name in "xytp"}
    np.savez_compressed(file, allow_pickle=False, **arrays, sensor_hw=np.array([events.height, events.width]))
    return file.getvalue()


# For each format the ending of its files, the writer, and the sensor (H, W) of what it writes here.
FORMATS = {
    "atis": (".bin", atis, (34, 34)),
    "aedat2": (".aedat", aedat2, (128, 128)),
    "aedat3": (".aedat", aedat3, (128, 128)),
    "aedat4": (".aedat4", aedat4, (260, 346)),
    "dat": (".dat", dat, (240, 304)),
    "evt2": (".raw", evt2, (480, 640)),
    "evt3": (".raw", evt3, (720, 1280)),
    "es": (".es", es, (100, 300)),
    "mat": (".mat", mat, (128, 128)),
    "npz": (".npz", npz, (34, 34)),
    "cifar10-dvs": (".aedat", cifar10_dvs, (128, 128)),
}
