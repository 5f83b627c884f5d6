"""Plain arrays in .npz files: numbers and texts, no pickle, and no more bytes than a file of this size may hold."""

import math
import re
import struct
import zipfile
import zlib
from collections.abc import Collection
from typing import BinaryIO

import numpy as np

ALLOWANCE, GROWTH = 2**25, 64
"""A file of n bytes may decompress to ALLOWANCE + GROWTH n: more than data ever do, far less than zeros do."""
DAMAGED = (
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
    RuntimeError,
)
"""What zipfile and numpy raise for files that are not whole."""

_MAGIC = b"\x93NUMPY"
_LENGTHS = {1: "<H", 2: "<I", 3: "<I"}
_LONGEST_HEADER = 2**12
_HEADER = re.compile(
    rb"\{'descr': '([<>|][iubfUS]\d{1,6})', 'fortran_order': (True|False), "
    rb"'shape': \(((?:\d{1,15}, ?){0,8}\d{0,15})\), \}\s*"
)
_PIECE = 2**20


def largest(size: int) -> int:
    """Bytes that a file of `size` bytes may decompress to."""
    return ALLOWANCE + GROWTH * size


def read_arrays(
    file: BinaryIO, *, limit: int, wanted: Collection[str] | None = None
) -> tuple[dict[str, np.ndarray], list[str]]:
    """The wanted arrays (None: all) of an .npz file, and the names of all.

    limit: bytes of the arrays together. Raises one of DAMAGED for what is not such a file, or is larger.
    """
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        for name in sorted(members if wanted is None else members.keys() & wanted):
            arrays[name] = _array(archive, members[name], limit)
            limit -= arrays[name].nbytes
    return arrays, sorted(members)


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> np.ndarray:
    name = member.filename[:80]
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{name} is encrypted or compressed other than by deflate")
    with archive.open(member) as file:
        kind, shape, by_columns = _header(file, name)
        size = math.prod(shape) * kind.itemsize
        if size > min(limit, member.file_size):
            raise ValueError(f"{name} states {size} bytes, more than it can hold")
        content, held = np.empty(size, np.uint8), 0
        while held < size and (piece := file.read(min(_PIECE, size - held))):
            content[held : held + len(piece)] = np.frombuffer(piece, np.uint8)
            held += len(piece)
        if held < size:
            raise ValueError(f"{name} ends after {held} of {size} bytes")
        if file.read(1):  # and at the end its checksum is compared
            raise ValueError(f"{name} goes on after its {size} bytes")
    return content.view(kind).reshape(shape, order="F" if by_columns else "C")


def _header(file, name: str) -> tuple[np.dtype, tuple[int, ...], bool]:
    start = file.read(len(_MAGIC) + 2)
    if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + 2 or start[6] not in _LENGTHS:
        raise ValueError(f"{name} is no array")
    number = _LENGTHS[start[6]]
    (length,) = struct.unpack(number, file.read(struct.calcsize(number)))
    stated = _HEADER.fullmatch(file.read(length)) if length <= _LONGEST_HEADER else None
    if stated is None:
        raise ValueError(f"{name} is not a plain array of numbers or texts")
    kind = np.dtype(stated[1].decode())
    if not kind.itemsize:
        raise ValueError(f"{name} holds values of no bytes")
    return kind, tuple(int(side) for side in stated[3].split(b",") if side.strip()), stated[2] == b"True"
