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

_EVENT = np.dtype({"names": ["x", "y", "high", "word"], "formats": ["u1", "u1", "u1", ">u4"], "offsets": [0, 1, 2, 1]})
# y is the top byte of the word as well, polarity its next bit.
_TIME = 0x7FFFFF


def read_atis(source: Source) -> Decoded:
    """The sensor is that of N-MNIST where all events fit on it, else that of N-Caltech101."""
    events = source.records(0, _EVENT)
    x, y, p = events["x"].astype(np.uint16), events["y"].astype(np.uint16), events["high"] >> 7
    t = events["word"].astype(np.int64)
    t &= _TIME
    if y.max(initial=0) >= OVERFLOW_ROW:
        overflow = y == OVERFLOW_ROW
        t += np.cumsum(overflow) * OVERFLOW_US
        x, y, t, p = (values[~overflow] for values in (x, y, t, p))
    return Decoded(x, y, t, p, SENSORS)
