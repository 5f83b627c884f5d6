"""ATIS .bin files of N-MNIST and N-Caltech101: 5 bytes an event, no header.

Bits from the top: 8 x, 8 y, 1 polarity, 23 microseconds. y = 240 marks an overflow, not an event: from there on times
are 2^13 us later. Source: Orchard et al. 2015, Converting Static Image Datasets to Spiking Neuromorphic Datasets Using
Saccades, and its Read_Ndataset.
"""

import numpy as np

from spimm.data.formats.source import Decoded, Source

OVERFLOW_ROW = 240
OVERFLOW_US = 2**13
# N-MNIST, then N-Caltech101: files do not say which they are.
SENSORS = ((34, 34), (180, 240))

_EVENT = np.dtype([("x", "u1"), ("y", "u1"), ("high", ">u2"), ("low", "u1")])


def read_atis(source: Source) -> Decoded:
    """The sensor is that of N-MNIST where all events fit on it, else that of N-Caltech101."""
    events = source.records(0, _EVENT)
    x, y, high = events["x"], events["y"], events["high"].astype(np.uint16)
    t = (high & 0x7FFF).astype(np.int64)
    t <<= 8
    t |= events["low"]
    p = (high >> 15).astype(np.uint8)
    overflow = y == OVERFLOW_ROW
    if overflow.any():
        t += np.cumsum(overflow) * OVERFLOW_US
        x, y, t, p = (values[~overflow] for values in (x, y, t, p))
    return Decoded(x, y, t, p, SENSORS)
