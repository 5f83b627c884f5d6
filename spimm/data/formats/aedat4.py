"""AEDAT 4 files of DV (.aedat4): flat buffers, each packet compressed by itself, little-endian.

A line of text, the size (u32) of a flat buffer IOHE and the buffer: compression (i8), position of the table of packets
at the end (i64, -1 for none), XML with the streams. Then packets: i32 stream, i32 bytes, and as many bytes that
decompress to a u32 size and a flat buffer. Those named EVTS hold events of 16 bytes: i64 microseconds, i16 x, i16 y
from the top left, u8 polarity. Source: iniVation, AEDAT 4.0, and the flat buffer schemas of dv-runtime.
"""

import struct
from xml.etree import ElementTree

import numpy as np

from spimm.data.formats.compression import COMPRESSIONS, Compressed
from spimm.data.formats.flatbuffer import FlatBufferError, Table
from spimm.data.formats.source import LARGEST_HEADER, Decoded, Size, Source

MAGIC = b"#!AER-DAT4.0\r\n"

_PACKET = struct.Struct("<ii")
_EVENT = np.dtype({"names": ["t", "x", "y", "p"], "formats": ["<i8", "<i2", "<i2", "u1"], "itemsize": 16})


def read_aedat4(source: Source) -> Decoded:
    """The events of the only stream of events, or of the one numbered `source.stream`.

    Compressed files need the extra `events`, else ImportError.
    """
    header, start = _flat_buffer(source, memoryview(source.data), len(MAGIC), b"IOHE", len(MAGIC))
    try:
        method, table = header.number(0, "<b", 0), header.number(1, "<q", -1)
        streams = _streams(bytes(header.items(2, 1)))
    except (FlatBufferError, ElementTree.ParseError, UnicodeError, LookupError, ValueError) as error:
        raise source.error(len(MAGIC), f"expected a header with the streams in XML: {error}") from error
    if not 0 <= method < len(COMPRESSIONS):
        raise source.error(len(MAGIC), f"compression must be one of 0 to {len(COMPRESSIONS) - 1}, got {method}")
    stream = source.chosen(sorted(streams))
    if stream is None:
        raise source.error(len(MAGIC), "expected a stream of events (EVTS), got none")
    size = streams[stream]
    events = np.frombuffer(b"".join(_packets(source, start, table, stream, method)), _EVENT)
    return Decoded(events["x"], events["y"], events["t"], events["p"], (size,) if size else ())


def _streams(xml: bytes) -> dict[int, Size | None]:
    """The sensor (H, W) of each stream of events by its number."""
    if b"<!" in xml or len(xml) > LARGEST_HEADER:
        raise ValueError(f"XML with declarations or of more than {LARGEST_HEADER} bytes")
    found: dict[int, Size | None] = {}
    for node in ElementTree.fromstring(xml.rstrip(b"\0")).findall("node[@name='outInfo']/node"):
        if node.findtext("attr[@key='typeIdentifier']") == "EVTS":
            sides = [node.findtext(f"node[@name='info']/attr[@key='{key}']") for key in ("sizeY", "sizeX")]
            height, width = (int(side) if side else None for side in sides)
            found[int(node.get("name", ""))] = (height, width) if height and width else None
    return found


def _packets(source: Source, offset: int, table: int, stream: int, method: int) -> list[memoryview]:
    """The events of the stream's packets, as bytes."""
    data, found, made = memoryview(source.data), [], 0
    stop = len(data) if table <= 0 else table
    while offset < stop:
        number, size = _PACKET.unpack_from(data, offset) if len(data) - offset >= _PACKET.size else (stream, 0)
        if size < 0:
            raise source.error(offset + 4, f"a packet's size must be 0 or more, got {size}")
        start = offset + _PACKET.size
        if len(data) - start < size:
            whole = sum(map(len, found)) // _EVENT.itemsize
            source.cut(offset, f"expected a packet of 8 + {size} bytes, got {len(data) - offset}", whole)
            break
        if number == stream:
            try:
                packet = memoryview(COMPRESSIONS[method](data[start : start + size], source.largest - made))
            except Compressed as error:
                raise source.error(start, str(error)) from error
            made += len(packet)
            found.append(_events(source, packet, start))
        offset = start + size
    return found


def _events(source: Source, packet: memoryview, offset: int) -> memoryview:
    buffer, _ = _flat_buffer(source, packet, 0, b"EVTS", offset)
    try:
        return buffer.items(0, _EVENT.itemsize)
    except FlatBufferError as error:
        raise source.error(offset, str(error)) from error


def _flat_buffer(source: Source, data: memoryview, start: int, name: bytes, offset: int) -> tuple[Table, int]:
    """The table of a flat buffer that begins with its size at `start`, and where it ends. offset: for the error."""
    size = int.from_bytes(data[start : start + 4], "little")
    if len(data) - start < 4 or len(data) - start - 4 < size:
        raise source.error(offset, f"expected a flat buffer of 4 + {size} bytes, got {len(data) - start}")
    try:
        return Table(data[start + 4 : start + 4 + size], name), start + 4 + size
    except FlatBufferError as error:
        raise source.error(offset, str(error)) from error
