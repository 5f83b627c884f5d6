"""Events in MATLAB files of version 5 to 7 (.mat), by the variables in them.

`spiketrain` [101, n] of ST-MNIST: row k < 100 is taxel k of a 10 x 10 skin, counted down the columns, not 0 where it
changes, > 0 for more pressure; row 100 is the time in seconds. A matrix [n, 4] with columns t, x, y, p or [n, 6] with
t, -, -, x, y, p, as dat2mat makes from a DVS128, mounted as for CIFAR10-DVS (see `mounted`). Or lists x, y, p (or pol)
and t (or ts). Times in microseconds; p > 0 where it got brighter. Source: MathWorks, MAT-file level 5; See et al. 2020,
ST-MNIST; Li et al. 2017, CIFAR10-DVS.
"""

import math
import zlib
from collections.abc import Iterator
from itertools import islice

import numpy as np

from spimm.data.formats.aedat import CAMERAS
from spimm.data.formats.mounted import upright_matrix
from spimm.data.formats.source import Decoded, Source

MAGIC = b"MATLAB 5.0 MAT-file"
SKIN = (10, 10)

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
# Types of stored numbers, and the classes of plain numeric arrays.
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_NUMERIC = range(6, 16)
_SPARSE_OR_COMPLEX = 0x0800
_NAMES = (("x",), ("y",), ("t", "ts"), ("p", "pol"))
_COLUMNS = {4: (1, 2, 0, 3), 6: (3, 4, 0, 5)}
# Of an array, and of the variables of a file.
_MOST_SIDES, _MOST_VARIABLES = 32, 1000


@np.errstate(invalid="ignore", over="ignore")  # what is not a number is refused by name
def read_mat(source: Source) -> Decoded:
    """The sensor is the 10 x 10 skin for `spiketrain`, the DVS128 for a matrix, to be stated for lists."""
    variables = _variables(source)
    if "spiketrain" in variables:
        train = variables["spiketrain"]
        if train.ndim != 2 or train.shape[0] != math.prod(SKIN) + 1:
            raise source.error(None, f"expected spiketrain [{math.prod(SKIN) + 1}, n], got {list(train.shape)}")
        event, taxel = np.nonzero(train[:-1].T)
        x, y = np.divmod(taxel, SKIN[0])
        return Decoded(
            x, y, _whole(source, "t", train[-1, event] * 1e6), (train[taxel, event] > 0).astype(int), (SKIN,)
        )
    lists, sensors = _lists(variables), ()
    if lists is None:
        matrix = next(
            (values for values in variables.values() if values.ndim == 2 and values.shape[1] in _COLUMNS), None
        )
        if matrix is None:
            found = {name[:40]: list(values.shape) for name, values in variables.items()}
            raise source.error(None, f"expected spiketrain, a matrix [n, 4] or [n, 6], or x, y, t and p, got {found}")
        lists, sensors = [matrix[:, column] for column in _COLUMNS[matrix.shape[1]]], (CAMERAS["dvs128"],)
    x, y, t, p = (_whole(source, name, values) for name, values in zip("xytp", lists, strict=True))
    if sensors and source.sensor in (None, *sensors):
        x, y = upright_matrix(x, y)
    return Decoded(x, y, t, (p > 0).astype(np.uint8), sensors)


def _lists(variables: dict[str, np.ndarray]) -> list[np.ndarray] | None:
    """x, y, t and p where all four are variables."""
    known = {key.lower(): values.ravel() for key, values in variables.items()}
    found = [known[name] for names in _NAMES for name in names if name in known]
    return found if len(found) == len(_NAMES) else None


def _whole(source: Source, name: str, values: np.ndarray) -> np.ndarray:
    """int64 of numbers that are finite and within 2^53."""
    if values.dtype.kind == "f":
        values = np.rint(values)
        wrong = ~(np.abs(values) < 2.0**53)
        if wrong.any():
            event = int(wrong.argmax())
            raise source.error(None, f"{name} must be finite and below 2^53, got {values[event]} in event {event}")
    return values.astype(np.int64)


def _variables(source: Source) -> dict[str, np.ndarray]:
    """The real numeric arrays of the file by name."""
    order = {b"IM": "<", b"MI": ">"}.get(source.data[126:_HEADER])
    if order is None:
        raise source.error(126, f"expected IM or MI, the order of bytes, got {source.data[126:_HEADER]!r}")
    found, left = {}, source.largest
    try:
        for kind, content in _elements(memoryview(source.data)[_HEADER:], order):
            if kind == _COMPRESSED:
                content = memoryview(zlib.decompressobj().decompress(content, left + 1))
                left -= len(content)
                if left < 0:
                    raise ValueError(f"it decompresses to more than {source.largest} bytes")
                kind, content = next(_elements(content, order), (0, content))
            if kind == _MATRIX and (variable := _array(content, order)):
                found[variable[0]] = variable[1]
            if len(found) > _MOST_VARIABLES:
                raise ValueError(f"it holds more than {_MOST_VARIABLES} variables")
    except (ValueError, zlib.error) as error:
        raise source.error(_HEADER, f"expected a whole MATLAB file: {error}") from error
    return found


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element: a tag of u32 type and u32 bytes, or both in one u32 for up to 4 bytes."""
    offset, numbers = 0, "little" if order == "<" else "big"
    while offset < len(data):
        tag = int.from_bytes(data[offset : offset + 4], numbers)
        small = tag >> 16
        size = small or int.from_bytes(data[offset + 4 : offset + 8], numbers)
        start = offset + (4 if small else 8)
        if size > (4 if small else max(len(data) - start, 0)) or start + size > len(data):
            raise ValueError(f"an element of {size} bytes where {max(len(data) - start, 0)} are left")
        yield tag & 0xFFFF if small else tag, data[start : start + size]
        padded = size if tag == _COMPRESSED else -(-size // 8) * 8
        offset = offset + 8 if small else start + padded


def _array(data: memoryview, order: str) -> tuple[str, np.ndarray] | None:
    """Name and values of a matrix element; None for other than a real numeric array."""
    flags, shape, name, values, *_ = [*islice(_elements(data, order), 4), *[(0, data[:0])] * 4]
    kind = np.frombuffer(flags[1][:4], f"{order}u4")
    if not len(kind) or int(kind[0]) & 0xFF not in _NUMERIC or int(kind[0]) & _SPARSE_OR_COMPLEX:
        return None
    if len(shape[1]) > 4 * _MOST_SIDES:
        raise ValueError(f"an array of {len(shape[1]) // 4} sides, at most {_MOST_SIDES}")
    sides = [int(side) for side in np.frombuffer(shape[1][: len(shape[1]) // 4 * 4], f"{order}i4")]
    if values[0] not in _NUMBERS:
        raise ValueError(f"a numeric array of stored type {values[0]}")
    number = np.dtype(order + _NUMBERS[values[0]])
    if min(sides, default=0) < 0 or math.prod(sides) * number.itemsize != len(values[1]):
        raise ValueError(f"an array {sides} of {number.itemsize}-byte numbers in {len(values[1])} bytes")
    return bytes(name[1]).decode("latin-1"), np.frombuffer(values[1], number).reshape(sides, order="F")
