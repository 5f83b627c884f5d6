"""What an event camera would record of a video: events where the logarithm of the luminance has changed enough.

The model of ESIM (Rebecq et al. 2018, ESIM: an Open Event Camera Simulator) with the per-pixel thresholds and the leak
of v2e (Hu et al. 2021, v2e: From Video Frames to Realistic DVS Events). A pixel at the reference level r fires as soon
as its level L = log(luminance + offset) meets

    L(t) = r + C_on  (p = 1; then r := r + C_on)    or    L(t) = r - C_off  (p = 0; then r := r - C_off)

where r starts as L of the first frame. Between two frames L is a straight line, so a pixel may fire several times, at
times that are interpolated. A pixel's events closer than the refractory period to its last one are lost, r moves on.

Legend: N frames, H W space, P = H * W pixels.
"""

import math
from collections.abc import Iterator

import numpy as np

from spimm.data.recording import Recording

MICROSECONDS = 1e-6
# Thresholds with noise stay above it (v2e), or a pixel would never stop to fire.
LEAST_THRESHOLD = 0.01
# In thresholds: a level that is met but for rounding is met.
SLACK = 1e-9
_NEVER = np.iinfo(np.int64).min // 2


def simulate_events(
    frames: np.ndarray,
    times: np.ndarray,
    *,
    threshold: float = 0.2,
    off_threshold: float | None = None,
    threshold_noise: float = 0.0,
    refractory: int = 0,
    leak_rate: float = 0.0,
    offset: float = 1e-3,
    seed: int = 0,
) -> Recording:
    """The events of a video, and of an image sequence as one.

    frames: luminance, uint8 (0 to 255) or float (0 to 1) [N, H, W], N > 1. times: integers [N], microseconds, rising.
    threshold, off_threshold: C_on and C_off in units of the logarithm; None takes C_off = C_on. threshold_noise:
    standard deviation of each pixel's own thresholds, drawn from `seed`. refractory: microseconds. leak_rate: events
    of polarity 1 per second and pixel where nothing changes. offset: luminance added before the logarithm; a larger one
    dims the dark. The same everywhere but for the rounding of the logarithm. ValueError names the value that cannot be.
    """
    times = _checked_times(frames, times)
    off_threshold = threshold if off_threshold is None else off_threshold
    for name, value in (("threshold", threshold), ("off_threshold", off_threshold), ("offset", offset)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name} must be more than 0 and finite, got {value}")
    for name, value in (("threshold_noise", threshold_noise), ("refractory", refractory), ("leak_rate", leak_rate)):
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more and finite, got {value}")
    height, width = frames.shape[1:]
    # RandomState, because its stream is frozen for good (NEP 19).
    random = np.random.RandomState(seed)
    on, off = (_thresholds(mean, threshold_noise, height * width, random) for mean in (threshold, off_threshold))
    rise = leak_rate * on * MICROSECONDS  # of the level, per microsecond
    levels = (_log(frame, offset).ravel() + rise * (time - times[0]) for frame, time in zip(frames, times, strict=True))
    pixel, t, p = fire(levels, times, on, off, refractory=refractory)
    return Recording(x=pixel % width, y=pixel // width, t=t, p=p, height=height, width=width)


def fire(
    levels: Iterator[np.ndarray], times: np.ndarray, on: np.ndarray, off: np.ndarray, *, refractory: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixel, time and polarity of every event in the order of time, int64 [events] each: the model above.

    levels: float64 [P] for each of the `times` (int64 [N], microseconds). on, off: thresholds, float64 [P]. Made of
    sums, products and quotients alone, so that equal levels give equal events on every machine.
    """
    before = start = next(levels)
    reference = start.copy()
    fired_on, fired_off = np.zeros((2, len(start)), dtype=np.int64)
    least_on, least_off = on * (1 - SLACK), -off * (1 - SLACK)
    last = np.full(len(start), _NEVER)
    found = []
    for index, after in enumerate(levels):
        change = after - reference
        active = np.flatnonzero((change >= least_on) | (change <= least_off))
        rises = change[active] > 0
        step = np.where(rises, on[active], -off[active])
        count = (change[active] / step + SLACK).astype(np.int64)
        which = np.repeat(np.arange(len(active)), count)
        nth = np.arange(1, len(which) + 1) - (np.cumsum(count) - count)[which]
        begin, end = before[active], after[active]
        share = ((reference[active] - begin)[which] + nth * step[which]) / (end - begin)[which]
        span = times[index + 1] - times[index]
        passed = np.rint(np.clip(share, 0, 1) * span).astype(np.int64)
        fired_on[active] += np.where(rises, count, 0)
        fired_off[active] += np.where(rises, 0, count)
        # From the counts, so that errors of rounding do not add up.
        reference[active] = start[active] + fired_on[active] * on[active] - fired_off[active] * off[active]
        before = after
        pixel = active[which]
        if refractory:
            kept = np.flatnonzero(_apart(pixel, nth, times[index] + passed, last, refractory))
            pixel, passed, which = pixel[kept], passed[kept], which[kept]
        order = np.argsort(passed.astype(np.uint16) if span < 2**16 else passed, kind="stable")  # 16 bits sort fast
        found.append((pixel[order], (times[index] + passed)[order], rises[which][order].astype(np.int64)))
    pixel, t, p = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return pixel, t, p


def _apart(pixel: np.ndarray, nth: np.ndarray, t: np.ndarray, last: np.ndarray, refractory: int) -> np.ndarray:
    """Which events come at least `refractory` after the pixel's one kept before; `last` [P] is that one's time."""
    kept = np.zeros(len(pixel), dtype=bool)
    for rank in range(1, int(nth.max(initial=0)) + 1):
        events = np.flatnonzero(nth == rank)
        events = events[t[events] - last[pixel[events]] >= refractory]
        last[pixel[events]] = t[events]
        kept[events] = True
    return kept


def _log(frame: np.ndarray, offset: float) -> np.ndarray:
    luminance = frame / 255 if frame.dtype == np.uint8 else frame.astype(np.float64)
    return np.log(luminance + offset)


def _thresholds(mean: float, noise: float, pixels: int, random: np.random.RandomState) -> np.ndarray:
    """Of every pixel, float64 [P]."""
    if not noise:
        return np.full(pixels, float(mean))
    return np.maximum(random.normal(mean, noise, pixels), LEAST_THRESHOLD)


def _checked_times(frames: np.ndarray, times: np.ndarray) -> np.ndarray:
    """`times` as int64 [N], if they and the frames make a video."""
    if frames.ndim != 3 or frames.size == 0 or not (frames.dtype == np.uint8 or frames.dtype.kind == "f"):
        seen = f"{frames.dtype} {list(frames.shape)}"
        raise ValueError(f"frames must be luminance, uint8 or float [N, H, W] with a pixel, got {seen}")
    if len(frames) < 2:
        raise ValueError(f"frames must be at least 2, got {len(frames)}")
    if frames.dtype.kind == "f" and not (frames.min() >= 0 and frames.max() <= 1):
        raise ValueError(f"frames of floats must lie in [0, 1], got {frames.min()} to {frames.max()}")
    times = np.asarray(times)
    if times.dtype.kind not in "iu" or times.shape != (len(frames),):
        wanted = f"{len(frames)} integers (microseconds), one for each frame"
        raise ValueError(f"times must be {wanted}, got {times.dtype} {list(times.shape)}")
    times = times.astype(np.int64)
    falls = np.flatnonzero(np.diff(times) <= 0)
    if len(falls):
        first = falls[0]
        raise ValueError(f"times must rise, got {times[first]} then {times[first + 1]} at frame {first + 1}")
    return times
