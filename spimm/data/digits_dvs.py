"""Moving digits as an event camera sees them: scikit-learn's digits and the simulator, no file needed.

Each digit, twice its size, goes along the three sides of a triangle of its own and starts and stops softly on each, as
in the saccades by which N-MNIST was recorded (Orchard et al. 2015, Converting Static Image Datasets to Spiking
Neuromorphic Datasets Using Saccades). The drawing counts in whole numbers and the levels are rounded, so that all
machines get the same events.

Legend: N images, T frames, H = W = SIDE.
"""

from functools import lru_cache

import numpy as np

from spimm.data.dataset import ImageData, in_memory
from spimm.data.frames import Framing, Stream
from spimm.data.recording import Recording
from spimm.data.simulator import fire
from spimm.data.split import ImageSplit
from spimm.data.static import DIGITS, bundled_digits, stratified_split

SIDE, SACCADE, FRAME_TIME, THRESHOLD = 24, 100_000, 5_000, 0.25
"""Pixels of a side of the sensor, microseconds of a saccade, microseconds between two drawn frames, units of log."""
# Luminance of paper, on a scale where ink is 1.
PAPER = 0.2
# Corners of N-MNIST's isosceles triangle in pixels from the centre, (y, x), and how far each is moved at most.
CORNERS, JITTER = ((-2, -2), (2, 0), (-2, 2)), 1
# Positions are whole multiples of 1 / STEP pixel, levels of 1 / GRAIN.
STEP, GRAIN = 32, 4096
# Ink where the digits have most.
FULL = 16 * (2 * STEP) ** 2
_TOGETHER = 256


@lru_cache(maxsize=1)
def digit_recordings() -> tuple[Recording, ...]:
    """All 1797 recordings of 0.3 s, in the order of scikit-learn's digits."""
    ink, _ = bundled_digits()
    paths = _paths(len(ink))
    recordings = []
    for start in range(0, len(ink), _TOGETHER):
        recordings += _record(ink[start : start + _TOGETHER], paths[:, start : start + _TOGETHER])
    return tuple(recordings)


def load_digits_dvs(framing: Framing, *, train_fraction: float | None = None, seed: int | None = None) -> ImageData:
    """`digit_recordings` as sequences of frames, in memory, split as `load_digits` splits."""
    _, labels = bundled_digits()
    frames = framing.together(Stream.of(digit_recordings()))
    fraction, seed = 0.8 if train_fraction is None else train_fraction, 0 if seed is None else seed
    parts = stratified_split(labels, train_fraction=fraction, seed=seed)
    return in_memory(
        "digits-dvs",
        *(ImageSplit.from_arrays(frames[part], labels[part]) for part in parts),
        note=f"simulated events of scikit-learn's digits, {framing}, stratified split, train fraction {fraction}, "
        f"seed {seed}",
        class_names=DIGITS,
        statistics=framing.statistics,
    )


def _paths(count: int) -> np.ndarray:
    """Where the centres of `count` digits are in each frame, int64 [frames, count, (y, x)], in 1 / STEP pixel."""
    random = np.random.RandomState(0)  # its stream is frozen for good (NEP 19)
    jitter = random.randint(-JITTER * STEP, JITTER * STEP + 1, size=(count, 3, 2))
    mirror = 2 * random.randint(2, size=(count, 1, 2)) - 1
    corners = (np.array(CORNERS) * STEP + jitter) * mirror
    part = np.arange(FRAME_TIME, SACCADE + 1, FRAME_TIME) / SACCADE
    soft = (part * part * (3 - 2 * part))[:, None, None]
    path = [corners[None, :, 0]]
    for corner in range(3):
        begin, end = corners[:, corner], corners[:, (corner + 1) % 3]
        path.append(np.floor(begin + soft * (end - begin) + 0.5))
    return np.concatenate(path).astype(np.int64)


def _record(ink: np.ndarray, paths: np.ndarray) -> list[Recording]:
    """Recordings of digits [N, 8, 8] along paths [frames, N, 2], all of them at once: no pixel looks at another."""
    luminance = PAPER + (1 - PAPER) * np.arange(FULL + 1) / FULL
    level = np.rint(np.log(luminance) * GRAIN) / GRAIN
    levels = (level[_draw(ink, centre)].ravel() for centre in paths)
    thresholds = np.full(len(ink) * SIDE**2, THRESHOLD)
    pixel, t, p = fire(levels, np.arange(len(paths)) * FRAME_TIME, thresholds, thresholds)
    digit, place = np.divmod(pixel, SIDE**2)
    order = np.argsort(digit.astype(np.uint16), kind="stable")
    parts = np.split(order, np.searchsorted(digit[order], np.arange(1, len(ink))))
    return [Recording(place[part] % SIDE, place[part] // SIDE, t[part], p[part], SIDE, SIDE) for part in parts]


def _draw(ink: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Bilinear digits around centres in 1 / STEP pixel, int64 [N, SIDE, SIDE] of 0 to FULL."""
    place = (2 * np.arange(SIDE) + 1 - SIDE) * STEP // 2 - centre[..., None]  # from the digit's centre, [N, 2, SIDE]
    cell = (2 * np.arange(8) + 1 - 8) * STEP
    weight = np.maximum(2 * STEP - np.abs(place[..., None] - cell), 0).astype(np.float32)
    rows, columns = weight[:, 0], weight[:, 1]
    return (rows @ ink.astype(np.float32) @ columns.swapaxes(1, 2)).astype(np.int64)
