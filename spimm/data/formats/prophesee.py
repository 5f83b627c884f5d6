"""Prophesee files: .dat (version 2) and .raw in EVT 2.0 and EVT 3.0, little-endian, after lines that begin with `% `.

.dat: u8 type (0 or 12: change of brightness), u8 size (8), then events: u32 microseconds, u32 with 4 bits polarity,
14 y, 14 x. EVT 2.0: words of 32 bits, EVT 3.0: of 16 bits, each with its kind in the top 4 bits. Pixels count from the
top left.
Source: Prophesee, Metavision SDK, File formats and Encoding formats.
"""

import re

import numpy as np

from spimm.data.formats.source import Decoded, Size, Source, unwrapped

# Gen1 (ATIS): files of that time, such as those of N-Cars, do not state it.
DAT_SENSOR = (240, 304)

_DAT = np.dtype([("t", "<u4"), ("data", "<u4")])


def read_dat(source: Source) -> Decoded:
    """Times that pass 2^32 us go on. The sensor is that of the header, else the Gen1's."""
    lines, start = source.header(b"% ", "%end")
    fields = _fields(lines)
    if fields.get("version") != "2":
        raise source.error(0, f"expected a .dat file of Version 2, got {fields.get('version')}")
    kind = source.data[start : start + 2]
    if len(kind) < 2 or kind[0] not in (0, 12) or kind[1] != _DAT.itemsize:
        raise source.error(start, f"expected events of type 0 or 12 and 8 bytes, got (type, bytes) {tuple(kind)}")
    events = source.records(start + 2, _DAT)
    data = events["data"].astype(np.uint32)
    x, y, p = data & 0x3FFF, data >> 14 & 0x3FFF, data >> 28
    size = _size(source, fields.get("height"), fields.get("width"))
    parts = (x.astype(np.uint16), y.astype(np.uint16), unwrapped(events["t"].astype(np.uint32), 32), p.astype(np.uint8))
    return Decoded(*parts, (size or DAT_SENSOR,))


def raw_header(source: Source) -> tuple[str | None, Size | None, int]:
    """What a .raw file states: encoding such as `3.0`, sensor (H, W), and the offset of the first word."""
    lines, start = source.header(b"% ", "%end")
    fields = _fields(lines)
    encoding, size = fields.get("evt"), None
    if geometry := re.fullmatch(r"(\d{1,9})x(\d{1,9})", fields.get("geometry", "")):
        size = _size(source, geometry[2], geometry[1])
    if stated := fields.get("format"):
        pairs = (part.partition("=") for part in stated.split(";"))
        known = {key.strip(): value.strip() for key, _, value in pairs}
        size = _size(source, known.get("height"), known.get("width")) or size
        if number := re.match(r"EVT(\d)(\d?)\b", stated):
            encoding = f"{number[1]}.{number[2] or 0}"
    return encoding, size, start


def read_evt2(source: Source) -> Decoded:
    """Kinds 0 and 1, darker and brighter: 6 bits of time, 11 x, 11 y. Kind 8: the 28 bits of time above these.

    Events before the first kind 8 have no time and are left out; other kinds are not events of the pixels.
    """
    _, size, start = raw_header(source)
    words = source.records(start, np.dtype("<u4"))
    kind = words >> 28
    is_time = kind == 8
    latest = np.cumsum(is_time) - 1
    chosen = (kind < 2) & (latest >= 0)
    high = unwrapped(words[is_time] & 0xFFFFFFF, 28)[latest[chosen]]
    words, p = words[chosen], kind[chosen].astype(np.uint8)
    x, y = (words >> 11 & 0x7FF).astype(np.uint16), (words & 0x7FF).astype(np.uint16)
    return Decoded(x, y, (high << 6) + (words >> 22 & 0x3F), p, (size,) if size else ())


def _fields(lines: list[str]) -> dict[str, str]:
    """`% Key value` by the key in lower case."""
    pairs = (line[2:].strip().partition(" ") for line in lines)
    return {key.lower(): value.strip() for key, _, value in pairs}


def _size(source: Source, height: str | None, width: str | None) -> Size | None:
    if height is None or width is None:
        return None
    if not (height.isascii() and height.isdigit() and width.isascii() and width.isdigit() and len(height + width) < 12):
        raise source.error(0, f"expected a sensor's size in pixels, got height {height!r} and width {width!r}")
    return int(height), int(width)
