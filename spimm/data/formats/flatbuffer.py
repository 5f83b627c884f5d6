"""The part of FlatBuffers that AEDAT 4 uses: fields of one table, each offset checked before it is followed.

A buffer begins with the position of its table (u32) and a name of 4 bytes. A table begins with the distance back to its
vtable (i32), which holds u16 sizes of itself and the table, then a u16 position in the table for each field, 0 for a
field left out. Strings and lists are reached by a u32 distance and begin with their length (u32). Little-endian.
Source: FlatBuffers, Internals.
"""

import struct


class FlatBufferError(ValueError):
    """A position or length that leads out of the buffer."""


class Table:
    """The root table of `buffer`, whose name must be `name`."""

    def __init__(self, buffer: memoryview, name: bytes) -> None:
        self._buffer = buffer
        self._start = self._read("<I", 0)
        if bytes(buffer[4:8]) != name:
            raise FlatBufferError(f"expected a flat buffer {name.decode()}, got {bytes(buffer[4:8])!r}")
        self._vtable = self._start - self._read("<i", self._start)
        self._fields = (self._read("<H", self._vtable) - 4) // 2

    def number(self, field: int, kind: str, default: int) -> int:
        """A field that is a number; `kind` as in `struct`."""
        position = self._position(field)
        return default if position is None else self._read(kind, position)

    def items(self, field: int, size: int) -> memoryview:
        """The bytes of a field that is a string (size 1) or a list of items of `size` bytes; empty when left out."""
        position = self._position(field)
        if position is None:
            return self._buffer[:0]
        position += self._read("<I", position)
        start, wanted = position + 4, self._read("<I", position) * size
        if wanted > len(self._buffer) - start:
            raise FlatBufferError(f"expected {wanted} bytes in field {field}, got {len(self._buffer) - start}")
        return self._buffer[start : start + wanted]

    def _position(self, field: int) -> int | None:
        if field >= self._fields:
            return None
        distance = self._read("<H", self._vtable + 4 + 2 * field)
        return self._start + distance if distance else None

    def _read(self, kind: str, position: int) -> int:
        if not 0 <= position <= len(self._buffer) - struct.calcsize(kind):
            raise FlatBufferError(f"a position leads out of a flat buffer of {len(self._buffer)} bytes: {position}")
        return struct.unpack_from(kind, self._buffer, position)[0]
