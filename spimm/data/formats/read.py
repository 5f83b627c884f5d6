"""Event files of every format as recordings."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from spimm.data.formats import aedat4, es, mat
from spimm.data.formats.aedat2 import read_aedat2, read_aedat2_of_cifar10_dvs
from spimm.data.formats.aedat3 import read_aedat3
from spimm.data.formats.atis import read_atis
from spimm.data.formats.evt3 import read_evt3
from spimm.data.formats.npz import read_npz, read_parts
from spimm.data.formats.prophesee import raw_header, read_dat, read_evt2
from spimm.data.formats.source import Decoded, Size, Source
from spimm.data.mend import NOTHING, REFUSE, Bounds, Lists, Mended, Mending, Order
from spimm.data.recording import Recording

logger = logging.getLogger("spimm.data")

Format = Literal["atis", "aedat2", "aedat3", "aedat4", "dat", "evt2", "evt3", "es", "mat", "npz", "cifar10-dvs"]
Truncated = Literal["refuse", "keep"]


def read_cifar10_dvs(source: Source) -> Decoded:
    """A file of CIFAR10-DVS in whichever format: AEDAT 2 is upright whatever its header says."""
    name = find_format(source)
    return read_aedat2_of_cifar10_dvs(source) if name == "aedat2" else READERS[name](source)


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
    "cifar10-dvs": read_cifar10_dvs,
}
# Formats of files that may hold the events of several cameras.
_STREAMED = ("aedat3", "aedat4")
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
    stream: int | None = None,
    truncated: Truncated = "refuse",
    out_of_order: Order = "refuse",
    out_of_bounds: Bounds = "refuse",
) -> Recording:
    """The events of a file, whole in memory, with the times that it states.

    format: by default what the file's content, else its name says. sensor: (H, W) instead of what the file says; needed
    where it says nothing. stream: which camera of an AEDAT 3.1 (its source) or AEDAT 4 file with several. truncated:
    `keep` reads a file that ends within an event up to there. out_of_order: `sort` sorts events by time where it falls,
    `drop` leaves out those that are earlier than one before them. out_of_bounds: `drop` leaves out events outside the
    sensor. How many is logged. Raises EventFileError for a file that cannot be read, FileNotFoundError for none,
    ImportError for one whose compression needs the extra `events`.
    """
    usual = out_of_order == out_of_bounds == "refuse"
    mending = REFUSE if usual else Mending(out_of_order, out_of_bounds)
    settings = {"format": format, "sensor": sensor, "stream": stream, "truncated": truncated}
    recording, mended = read_mended(path, mending, **settings)
    if any(mended):
        logger.warning("%s: %s", path, mending.told(mended))
    return recording


def read_mended(
    path: str | Path,
    mending: Mending = REFUSE,
    *,
    format: Format | None = None,
    sensor: Size | None = None,
    stream: int | None = None,
    truncated: Truncated = "refuse",
) -> tuple[Recording, Mended]:
    """As `read_recording`, with what was mended."""
    if format is not None and format not in READERS:
        raise ValueError(f"format must be one of {', '.join(READERS)}, got {format!r}")
    if truncated != "refuse" and truncated not in get_args(Truncated):
        raise ValueError(f"truncated must be one of {', '.join(get_args(Truncated))}, got {truncated!r}")
    source = Source.of(path, sensor, keep_whole=truncated == "keep", stream=stream)
    try:
        name = format or find_format(source)
        if stream is not None and name not in _STREAMED:
            raise source.error(None, f"is of the format {name}, which has no streams; got stream={stream}")
        return _checked(source, READERS[name](source), mending)
    except MemoryError as error:
        raise source.error(None, "needs more memory than there is") from error


def read_packed(
    path: str | Path,
    *,
    part: str | None = None,
    sensor: Size | None = None,
    out_of_order: Order = "refuse",
    out_of_bounds: Bounds = "refuse",
) -> tuple[list[Recording], np.ndarray | None]:
    """All recordings of a part (`train`, say; none by default) of an .npz file, and their labels [N] if it has them.

    out_of_order, out_of_bounds, errors: as in `read_recording`.
    """
    source, mending = Source.of(path, sensor), Mending(out_of_order, out_of_bounds)
    try:
        recordings, labels, stated = read_parts(source, f"{part}_" if part else "")
        sensors = (stated,) if stated else ()
        found = [_checked(source, Decoded(x, y, t, p, sensors), mending) for x, y, t, p in recordings]
    except MemoryError as error:
        raise source.error(None, "needs more memory than there is") from error
    total = Mended(*(sum(counts) for counts in zip(*(mended for _, mended in found), strict=True)))
    if any(total):
        logger.warning("%s: %s", path, mending.told(total))
    return [recording for recording, _ in found], labels


def find_format(source: Source) -> Format:
    """The format of a file by its first bytes, else by its name."""
    if source.data.startswith(tuple(_BEGINNINGS)):
        return next(name for beginning, name in _BEGINNINGS.items() if source.data.startswith(beginning))
    if source.data.startswith(b"% "):
        encoding, _, _ = raw_header(source)
        if encoding is None:
            return "dat"
        if encoding in _ENCODINGS:
            return _ENCODINGS[encoding]
        raise source.error(0, f"expected EVT {' or '.join(_ENCODINGS)}, got EVT {encoding}")
    if source.path.name.lower().endswith(".bin"):
        return "atis"
    raise source.error(0, f"expected the content of {', '.join(READERS)}, or a name that ends in .bin, got neither")


def _checked(source: Source, decoded: Decoded, mending: Mending) -> tuple[Recording, Mended]:
    x, y, t, p, _ = decoded
    height, width = source.sensor or _sensor(source, decoded)
    mended = NOTHING
    try:
        if mending != REFUSE and len(x) == len(y) == len(t) == len(p):
            (x, y, t, p, _), mended = mending(Lists(x, y, t, p, np.array([0, len(t)])), height, width)
        return Recording(x, y, t, p, height, width), mended
    except ValueError as error:
        raise source.error(None, f"{error}{_remedy(str(error))}") from error


def _remedy(message: str) -> str:
    """The settings that read the file all the same."""
    if message.startswith("t must not fall"):
        return "; out_of_order=sort sorts such events, out_of_order=drop leaves them out"
    outside = message.startswith(("x must be in", "y must be in"))
    return "; out_of_bounds=drop leaves out such events" if outside else ""


def _sensor(source: Source, decoded: Decoded) -> Size:
    """The least sensor that holds all events, else the largest, of those that the file may mean."""
    if not decoded.sensors:
        raise source.error(None, "does not state its sensor, expected sensor=(height, width) in pixels")
    *smaller, largest = decoded.sensors
    if not len(decoded.x):
        return decoded.sensors[0]
    x, y = int(decoded.x.max()), int(decoded.y.max())
    return next(((height, width) for height, width in smaller if y < height and x < width), largest)
