"""Prophesee .raw files in EVT 3.0: 16-bit words that change a state or emit events, read without a loop over them.

Kinds (top 4 bits) and the 12 bits below: 0 y (11 bits); 2 one event at x (11 bits) with polarity (bit 11); 3 x and
polarity of the vectors that follow; 4 a vector of 12 and 5 of 8 pixels from there on, an event for each bit that is
set, after which x has moved on by as much; 6 low and 8 high 12 bits of the time. A new high time sets the low one to 0,
so that time does not run ahead. Source: Prophesee, EVT 3.0 format.
"""

import numpy as np

from spimm.data.formats.prophesee import raw_header
from spimm.data.formats.source import Decoded, Source, unwrapped

# Bits that are set in each number of 12 bits.
_COUNT = np.array([number.bit_count() for number in range(2**12)])
_Y, _X, _BASE, _VECTOR_12, _VECTOR_8, _LOW, _HIGH = 0, 2, 3, 4, 5, 6, 8


def read_evt3(source: Source) -> Decoded:
    """Events before the first high time, the first y or, in a vector, the first base are left out.

    Other kinds (triggers, continuations) are not events of the pixels. Time passes 2^24 us and goes on.
    """
    _, size, start = raw_header(source)
    words = source.records(start, np.dtype("<u2")).astype(np.uint16)
    kind, value = words >> 12, words & 0xFFF
    is_y, is_time = kind == _Y, (kind == _LOW) | (kind == _HIGH)
    at, x, p = _columns(kind, value)
    unknown = np.searchsorted(at, max(_first(is_y), _first(kind == _HIGH)))
    at, x, p = at[unknown:], x[unknown:], p[unknown:]
    y = (value[is_y] & 0x7FF)[_latest(is_y)[at]]
    return Decoded(x, y, _times(kind[is_time], value[is_time])[_latest(is_time)[at]], p, (size,) if size else ())


def _latest(states: np.ndarray) -> np.ndarray:
    """For each word which of the words marked by `states` is the latest at or before it, -1 for none."""
    return np.cumsum(states, dtype=np.int32 if len(states) < 2**31 else np.int64) - 1


def _first(states: np.ndarray) -> int:
    """The first word marked by `states`, or the number of words."""
    return int(states.argmax()) if states.any() else len(states)


def _columns(kind: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The word, x and polarity of every event of kind 2, 4 or 5."""
    is_vector = (kind == _VECTOR_12) | (kind == _VECTOR_8)
    is_vector[: _first(kind == _BASE)] = False
    at = np.flatnonzero((kind == _X) | is_vector)
    state = value[at]
    x, p = (state & 0x7FF).astype(np.int64), (state >> 11).astype(np.uint8)
    vector = np.flatnonzero(is_vector[at])
    if not len(vector):
        return at, x, p
    x[vector], p[vector], pixels = _vectors(kind, value, at[vector])
    bits = np.unpackbits(pixels.astype("<u2").view(np.uint8), bitorder="little").reshape(-1, 16).view(bool)
    counts = np.ones(len(at), np.intp)
    counts[vector] = _COUNT[pixels]
    at, x, p = (np.repeat(values, counts) for values in (at, x, p))
    x[is_vector[at]] += np.flatnonzero(bits) & 15
    return at, x, p


def _vectors(kind: np.ndarray, value: np.ndarray, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """First x, polarity and pixels, as bits, of the vectors at these words."""
    is_base, narrow = kind == _BASE, kind == _VECTOR_8
    base = np.flatnonzero(is_base)[_latest(is_base)[at]]
    moved = np.cumsum(12 * (kind == _VECTOR_12) + 8 * narrow)
    x = (value[base] & 0x7FF) + moved[at - 1] - moved[base]
    return x, value[base] >> 11, value[at] & np.where(narrow[at], 0xFF, 0xFFF)


def _times(kind: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Microseconds from each of the words that state them on, 0 before the first of kind 8."""
    is_high = kind == _HIGH
    first = _first(is_high)
    t = np.zeros(len(kind), np.int64)
    is_high, value = is_high[first:], value[first:]
    high = unwrapped(value[is_high], 12)[_latest(is_high)]
    sets_low = ~is_high | (np.diff(high, prepend=-1) != 0)
    t[first:] = (high << 12) + np.where(is_high, 0, value)[sets_low][_latest(sets_low)]
    return t
