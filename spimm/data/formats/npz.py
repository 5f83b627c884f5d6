"""Recordings in .npz files: arrays x, y, t (microseconds) and p, integers [events], all with one prefix or none.

Many in one file follow one another: `offsets` [N + 1], recording k is offsets[k] : offsets[k + 1], `labels` [N]; the
prefix is then the part and `_`. `sensor_hw` is the sensor's (H, W) in pixels.
"""

import io
import re
import struct
import zipfile
import zlib
from itertools import pairwise

import numpy as np

from spimm.data.formats.source import Decoded, Size, Source

_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    ValueError,
    OverflowError,
    NotImplementedError,
)
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(rb"\{'descr': '([<>|][iub][1248])', 'fortran_order': False, 'shape': \((\d{1,15}),\), \}\s*")


def read_npz(source: Source) -> Decoded:
    """The only recording of a file."""
    recordings, _, sensor = read_parts(source, "")
    if len(recordings) != 1:
        raise source.error(None, f"wanted one recording, got {len(recordings)}, which read_packed reads")
    x, y, t, p = recordings[0]
    return Decoded(x, y, t, p, (sensor,) if sensor else ())


def read_parts(source: Source, prefix: str) -> tuple[list[list[np.ndarray]], np.ndarray | None, Size | None]:
    """x, y, t and p of each recording whose arrays have this prefix, the labels, and the sensor (H, W)."""
    fields = [prefix + key for key in "xytp"]
    offsets_name, labels_name = prefix + "offsets", prefix + "labels"
    try:
        arrays, names = _arrays(source, {*fields, offsets_name, labels_name, "sensor_hw"})
    except _DAMAGED as error:
        raise source.error(None, f"wanted a readable .npz of plain arrays: {error}") from error
    if not arrays.keys() >= set(fields):
        raise source.error(None, f"wanted the arrays {', '.join(fields)}, got {sorted(names)}")
    events = len(arrays[fields[0]])
    bounds = arrays.get(offsets_name, np.array([0, events])).astype(np.int64)
    rises = len(bounds) > 1 and (np.diff(bounds) >= 0).all()
    if not rises or bounds[0] != 0 or any(len(arrays[name]) != bounds[-1] for name in fields):
        lengths = [len(arrays[name]) for name in fields]
        raise source.error(
            None, f"wanted offsets that rise from 0 to the events, got {bounds} and {lengths} x, y, t, p"
        )
    recordings = [[arrays[name][a:b] for name in fields] for a, b in pairwise(bounds.tolist())]
    labels, stated = arrays.get(labels_name), arrays.get("sensor_hw", np.empty(0)).tolist()
    if labels is not None and len(labels) != len(recordings):
        raise source.error(None, f"wanted a label for each of {len(recordings)} recordings, got {len(labels)}")
    return recordings, labels, (stated[0], stated[1]) if len(stated) == 2 else None


def _arrays(source: Source, wanted: set[str]) -> tuple[dict[str, np.ndarray], set[str]]:
    """The wanted arrays that the file holds, and the names of all."""
    arrays, left = {}, source.largest
    with zipfile.ZipFile(io.BytesIO(source.data)) as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
        for name in sorted(names & wanted):
            arrays[name] = _array(archive, archive.getinfo(f"{name}.npy"), left)
            left -= arrays[name].nbytes
    return arrays, names


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> np.ndarray:
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is encrypted or compressed other than by deflate")
    with archive.open(member) as file:
        start = file.read(len(_MAGIC) + 2)
        header = file.read(int.from_bytes(start[-2:], "little"))
        stated = _HEADER.fullmatch(header)
        if not start.startswith(_MAGIC) or stated is None:
            raise ValueError(f"{member.filename} is not a list of integers")
        kind = np.dtype(stated[1].decode())
        size = int(stated[2]) * kind.itemsize
        if size > min(limit, member.file_size):
            raise ValueError(f"{member.filename} states {size} bytes, more than it can hold")
        values = np.frombuffer(file.read(size), kind)
    if values.nbytes != size:
        raise ValueError(f"{member.filename} ends after {values.nbytes} of {size} bytes")
    return values
