"""Which way up the pixels of a DVS128 stand in recordings of CIFAR10-DVS.

The camera stood on its side, and the authors' files count its columns and rows as the sensor does. SpikingJelly's
loader, by which the published accuracies were made, turns the images upright: column 127 - y and row 127 - x of the
address's x and y. dat2mat, which the authors name for MATLAB, mirrors the address's x only. Here both files give the
recordings of SpikingJelly. Source: SpikingJelly, spikingjelly.datasets.cifar10_dvs.
"""

import numpy as np

LAST = 127


def upright_address(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows from the top left, of x and y in the address of an AEDAT 2 file."""
    return LAST - y, LAST - x


def upright_matrix(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows from the top left, of x and y as dat2mat writes them: 127 - x and y of the address."""
    return upright_address(LAST - x, y)
