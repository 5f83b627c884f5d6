"""Recordings in .npz files: arrays x, y, t (microseconds) and p, integers [events], all with one prefix or none.

Many in one file follow one another: `offsets` [N + 1], recording k is offsets[k] : offsets[k + 1], `labels` [N]; the
prefix is then the part and `_`. `sensor_hw` is the sensor's (H, W) in pixels.
"""

import io
from itertools import pairwise

import numpy as np

from spimm.data.arrays import DAMAGED, read_arrays
from spimm.data.formats.source import Decoded, Size, Source

# Recordings beyond one for each byte of the file.
_FEW = 2**16


def read_npz(source: Source) -> Decoded:
    """The only recording of a file."""
    recordings, _, sensor = read_parts(source, "")
    if len(recordings) != 1:
        raise source.error(None, f"expected one recording, got {len(recordings)}, which read_packed reads")
    x, y, t, p = recordings[0]
    return Decoded(x, y, t, p, (sensor,) if sensor else ())


def read_parts(source: Source, prefix: str) -> tuple[list[list[np.ndarray]], np.ndarray | None, Size | None]:
    """x, y, t and p of each recording whose arrays have this prefix, the labels, and the sensor (H, W)."""
    fields = [prefix + key for key in "xytp"]
    arrays = _arrays(source, fields, prefix)
    events = [len(arrays[name]) for name in fields]
    bounds = arrays.get(prefix + "offsets", np.array([0, events[0]])).astype(np.int64)
    if not 2 <= len(bounds) <= len(source.data) + _FEW:
        raise source.error(None, f"expected offsets of 1 to {len(source.data) + _FEW} recordings, got {len(bounds)}")
    rises = bool((np.diff(bounds) >= 0).all())
    if not rises or bounds[0] != 0 or any(count != bounds[-1] for count in events):
        seen = f"{bounds} and {events} x, y, t, p"
        raise source.error(None, f"expected offsets that rise from 0 to the events, got {seen}")
    recordings = [[arrays[name][a:b] for name in fields] for a, b in pairwise(bounds.tolist())]
    labels, stated = arrays.get(prefix + "labels"), arrays.get("sensor_hw")
    if labels is not None and len(labels) != len(recordings):
        raise source.error(None, f"expected a label for each of {len(recordings)} recordings, got {len(labels)}")
    sensor = None if stated is None or len(stated) != 2 else (int(stated[0]), int(stated[1]))
    return recordings, labels, sensor


def _arrays(source: Source, fields: list[str], prefix: str) -> dict[str, np.ndarray]:
    """Those of the recordings that the file holds, all of them lists of integers."""
    wanted = {*fields, prefix + "offsets", prefix + "labels", "sensor_hw"}
    try:
        arrays, names = read_arrays(io.BytesIO(source.data), limit=source.largest, wanted=wanted)
    except DAMAGED as error:
        raise source.error(None, f"expected a readable .npz of plain arrays: {error}") from error
    if not arrays.keys() >= set(fields):
        raise source.error(None, f"expected the arrays {', '.join(fields)}, got {names}")
    for name, values in arrays.items():
        if values.ndim != 1 or values.dtype.kind not in "iub":
            raise source.error(None, f"{name} must be a list of integers, got {values.dtype} {list(values.shape)}")
    return arrays
