"""Event Stream files (.es) of version 2 with DVS events: variable length, little-endian.

`Event Stream`, three bytes of version, a byte of type (1: DVS), u16 width, u16 height. Then, between events: a byte 255
is 127 us without an event, 254 nothing, any other begins an event: 7 bits of microseconds since the one before and 1
bit of polarity, u16 x, u16 y. Rows are taken as stored. Source: Marcireau, Event Stream, version 2.
"""

import numpy as np

from spimm.data.formats.source import Decoded, Source

MAGIC = b"Event Stream"
DVS = 1

_START = 20
_IDLE_US = 127
_NONE_LACKING = np.uint32(sum(1 << 5 * lacking for lacking in range(5)))


def read_es(source: Source) -> Decoded:
    data = source.data
    if len(data) < _START or data[12] != 2 or data[15] != DVS:
        raise source.error(12, f"expected version 2 and DVS events (1), got version and type {tuple(data[12:16])}")
    width, height = (int.from_bytes(data[at : at + 2], "little") for at in (16, 18))
    body = np.frombuffer(data, np.uint8, offset=_START)
    between = np.flatnonzero(_between_events(body))
    byte = body[between]
    t = np.cumsum(np.where(byte == 255, _IDLE_US, np.where(byte == 254, 0, byte >> 1)).astype(np.int64))
    starts = byte < 254
    first, t, byte = between[starts], t[starts], byte[starts]
    if len(first) and first[-1] + 5 > len(body):
        got = len(body) - int(first[-1])
        source.cut(_START + int(first[-1]), f"expected 5 bytes for an event, got {got}", len(first) - 1)
        first, t, byte = first[:-1], t[:-1], byte[:-1]
    x, y = (body[first + at] | body[first + at + 1].astype(np.uint16) << 8 for at in (1, 3))
    return Decoded(x, y, t, byte & 1, ((height, width),))


def _between_events(body: np.ndarray) -> np.ndarray:
    """Whether no event is under way before each byte.

    The file is cut into lanes that are walked all at once, from each of the 5 numbers of bytes that an event could
    still lack; which number is true is known when the lanes before are. A lane's state has 5 bits for each such
    beginning, one of them set: that of the bytes lacking now.
    """
    length = max(int((len(body) / 32) ** 0.5), 1)
    lanes = -(-len(body) // length)
    padded = np.zeros(lanes * length, np.uint8)
    padded[: len(body)] = np.where(body < 254, 4, 0)
    lacking_next = np.ascontiguousarray(padded.reshape(lanes, length).T)  # after a byte between events
    before = np.empty((length, lanes), np.uint32)
    state = np.full(lanes, sum(1 << 6 * lacking for lacking in range(5)), np.uint32)
    for row, lacking in zip(before, lacking_next, strict=True):
        row[:] = state
        none = state & _NONE_LACKING
        state = (state ^ none) >> 1 | none << lacking
    entry, lacking = [], 0
    for after in state.tolist():
        entry.append(5 * lacking)
        lacking = (after >> 5 * lacking & 31).bit_length() - 1
    return (before >> np.array(entry, np.uint32) & 1).astype(bool).T.reshape(-1)[: len(body)]
