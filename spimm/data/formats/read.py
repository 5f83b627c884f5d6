"""Event files of every format as recordings."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from spimm.data.formats import aedat4, es, mat
from spimm.data.formats.aedat2 import read_aedat2
from spimm.data.formats.aedat3 import read_aedat3
from spimm.data.formats.atis import read_atis
from spimm.data.formats.evt3 import read_evt3
from spimm.data.formats.npz import read_npz, read_parts
from spimm.data.formats.prophesee import raw_header, read_dat, read_evt2
from spimm.data.formats.source import Decoded, Size, Source
from spimm.data.recording import Recording

Format = Literal["atis", "aedat2", "aedat3", "aedat4", "dat", "evt2", "evt3", "es", "mat", "npz"]
Truncated = Literal["refuse", "keep"]
Order = Literal["refuse", "sort"]

READERS: dict[Format, Callable[[Source], Decoded]] = {
    "atis": read_atis,
    "aedat2": read_aedat2,
    "aedat3": read_aedat3,
    "aedat4": aedat4.read_aedat4,
    "dat": read_dat,
    "evt2": read_evt2,
    "evt3": read_evt3,
    "es": es.read_es,
    "mat": mat.read_mat,
    "npz": read_npz,
}
_BEGINNINGS: dict[bytes, Format] = {
    b"#!AER-DAT2.": "aedat2",
    b"#!AER-DAT3.": "aedat3",
    aedat4.MAGIC: "aedat4",
    es.MAGIC: "es",
    mat.MAGIC: "mat",
    b"PK\x03\x04": "npz",
}
_ENCODINGS: dict[str, Format] = {"2.0": "evt2", "3.0": "evt3"}


def read_recording(
    path: str | Path,
    *,
    format: Format | None = None,
    sensor: Size | None = None,
    truncated: Truncated = "refuse",
    out_of_order: Order = "refuse",
) -> Recording:
    """The events of a file, whole in memory, with the times that it states.

    format: by default what the file's content, else its name says. sensor: (H, W) instead of what the file says; needed
    where it says nothing. truncated: `keep` reads a file that ends within an event up to there. out_of_order: `sort`
    sorts events whose times fall back. Raises EventFileError for a file that cannot be read, FileNotFoundError for
    none, ImportError for one whose compression needs the extra `events`.
    """
    options = {"format": (format, Format), "truncated": (truncated, Truncated), "out_of_order": (out_of_order, Order)}
    for name, (value, kind) in options.items():
        if value is not None and value not in get_args(kind):
            raise ValueError(f"{name} must be one of {', '.join(get_args(kind))}, got {value!r}")
    place = Path(path)
    source = Source(place, place.read_bytes(), sensor, truncated == "keep")
    return _checked(source, READERS[format or find_format(source)](source), out_of_order)


def read_packed(
    path: str | Path, *, part: str | None = None, sensor: Size | None = None
) -> tuple[list[Recording], np.ndarray | None]:
    """All recordings of a part (`train`, say; none by default) of an .npz file, and their labels [N] if it has them.

    Errors as in `read_recording`.
    """
    source = Source(Path(path), Path(path).read_bytes(), sensor)
    recordings, labels, stated = read_parts(source, f"{part}_" if part else "")
    sensors = (stated,) if stated else ()
    return [_checked(source, Decoded(x, y, t, p, sensors), "refuse") for x, y, t, p in recordings], labels


def find_format(source: Source) -> Format:
    """The format of a file by its first bytes, else by its name."""
    for beginning, name in _BEGINNINGS.items():
        if source.data.startswith(beginning):
            return name
    if source.data.startswith(b"% "):
        encoding, _, _ = raw_header(source)
        if encoding is None:
            return "dat"
        if encoding in _ENCODINGS:
            return _ENCODINGS[encoding]
        raise source.error(0, f"wanted EVT {' or '.join(_ENCODINGS)}, got EVT {encoding}")
    if source.path.suffix.lower() == ".bin":
        return "atis"
    raise source.error(0, f"wanted the content of {', '.join(READERS)}, or a name that ends in .bin, got neither")


def _checked(source: Source, decoded: Decoded, out_of_order: Order) -> Recording:
    x, y, t, p, _ = decoded
    falls = t[1:] < t[:-1]
    if falls.any():
        if out_of_order != "sort":
            event = int(falls.argmax()) + 1
            seen = f"{t[event]} after {t[event - 1]} in event {event}, {int(falls.sum())} in all"
            raise source.error(None, f"t must not fall, got {seen}; out_of_order='sort' sorts them")
        order = np.argsort(t, kind="stable")
        x, y, t, p = (values[order] for values in (x, y, t, p))
    height, width = source.sensor or _sensor(source, decoded)
    try:
        return Recording(x, y, t, p, height, width)
    except ValueError as error:
        raise source.error(None, str(error)) from error


def _sensor(source: Source, decoded: Decoded) -> Size:
    """The least sensor that holds all events, else the largest, of those that the file may mean."""
    if not decoded.sensors:
        raise source.error(None, "does not state its sensor, wanted sensor=(height, width) in pixels")
    *smaller, largest = decoded.sensors
    if not len(decoded.x):
        return decoded.sensors[0]
    x, y = int(decoded.x.max()), int(decoded.y.max())
    return next(((height, width) for height, width in smaller if y < height and x < width), largest)
