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

# y is the top byte of the word that the polarity and the time share.
_EVENT = np.dtype({"names": ["x", "word"], "formats": ["u1", ">u4"], "offsets": [0, 1], "itemsize": 5})


def read_atis(source: Source) -> Decoded:
    """The sensor is that of N-MNIST where all events fit on it, else that of N-Caltech101."""
    events = source.records(0, _EVENT)
    x, word = events["x"], events["word"].astype(np.uint32)
    t = (word & 0x7FFFFF).astype(np.int64)
    y = (word >> 24).astype(np.uint8)
    p = (word >> 23).astype(np.uint8) & 1
    overflow = y == OVERFLOW_ROW
    if overflow.any():
        t += np.cumsum(overflow) * OVERFLOW_US
        x, y, t, p = (values[~overflow] for values in (x, y, t, p))
    return Decoded(x, y, t, p, SENSORS)
