"""From the events of recordings to T frames each: counts, voxel grids and time surfaces.

Legend: N recordings, n events of all of them, H W space, T frames, C polarities (off, on; one channel if merged).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch

from spimm.data.recording import FIELDS, Recording

Bins = Literal["time", "count", "duration", "events"]
Representation = Literal["counts", "voxel", "surface"]

LARGEST = 2**30
"""Bytes of one recording's frames while they are made, at most."""
VOXEL_LEVELS = 8
"""Levels of uint8 for one event in a voxel grid, which so holds up to 31.9 events."""
SURFACE_LEVELS = 255
"""Levels of uint8 for an event of this instant in a time surface."""
NEVER = -(2**62)
# Bytes of the frames that are filled together, and events that are counted together: as caches hold them.
CELLS_TOGETHER, EVENTS_TOGETHER = 2**20, 2**17


class Stream(NamedTuple):
    """Recordings of one sensor one after another, as in `Recording`: x, y, t, p integers [n], offsets int64 [N + 1]."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    offsets: np.ndarray
    height: int
    width: int

    @classmethod
    def of(cls, recordings: Sequence[Recording]) -> "Stream":
        """ValueError for sensors that differ."""
        sizes = {(recording.height, recording.width) for recording in recordings}
        if len(sizes) != 1:
            raise ValueError(f"recordings framed together must have one sensor size, got {sorted(sizes)} (H, W)")
        height, width = sizes.pop()
        offsets = np.cumsum([0, *map(len, recordings)])
        if len(recordings) == 1:
            return cls(*(getattr(recordings[0], name) for name in FIELDS), offsets=offsets, height=height, width=width)
        joined = (np.concatenate([getattr(recording, name) for recording in recordings]) for name in FIELDS)
        return cls(*joined, offsets=offsets, height=height, width=width)

    def part(self, start: int, stop: int) -> "Stream":
        """Recordings start to stop."""
        first, last = self.offsets[start], self.offsets[stop]
        events = (getattr(self, name)[first:last] for name in FIELDS)
        offsets = self.offsets[start : stop + 1] - first
        return Stream(*events, offsets=offsets, height=self.height, width=self.width)


@dataclass(frozen=True)
class Framing:
    """How a recording becomes frames, uint8 [H, W, T, C]: `framing(recording)`.

    frames: T; None, with bins of a size, is as many as the recording fills.
    bins: `time` cuts the recording into T spans of equal length between its first and its last event, `count` into T
    runs of equally many events; `duration` into spans of `bin_size` microseconds from its first event, `events` into
    runs of `bin_size` events. The last two leave out what comes after T frames and fill up with empty ones.
    representation: `counts` of events; `voxel`, see `voxel_grid`, VOXEL_LEVELS to an event; `surface`, see
    `time_surface`, 255 for an event at the end of the frame. What is above 255 is 255.
    merge_polarity: one channel for both polarities. sensor_size: events are moved to squares of so many pixels, the
    aspect ratio is not kept; None keeps the sensor's size. tau: decay of time surfaces in microseconds.
    """

    frames: int | None
    bins: Bins = "time"
    bin_size: int | None = None
    representation: Representation = "counts"
    merge_polarity: bool = False
    sensor_size: int | None = None
    tau: int = 50_000

    def __post_init__(self) -> None:
        for name, choices in (("bins", get_args(Bins)), ("representation", get_args(Representation))):
            if getattr(self, name) not in choices:
                wanted = f"{', '.join(choices[:-1])} or {choices[-1]}"
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")
        for name in ("frames", "bin_size", "sensor_size", "tau"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        sized = self.bins in ("duration", "events")
        if sized != (self.bin_size is not None):
            wanted = "a bin_size, in microseconds or events" if sized else "no bin_size"
            raise ValueError(f"bins={self.bins} takes {wanted}, got {self.bin_size}")
        if self.frames is None and not sized:
            raise ValueError(f"bins={self.bins} needs a number of frames, got frames=None")
        if self.representation == "voxel" and self.bins != "time":
            raise ValueError(f"a voxel grid weighs events by time and takes bins=time, got {self.bins}")

    def __call__(self, recording: Recording) -> np.ndarray:
        """uint8 [H, W, T, C]. ValueError for a recording without events, or a sensor smaller than `sensor_size`."""
        framing = self
        if self.frames is None and len(recording):
            amount = recording.duration + 1 if self.bins == "duration" else len(recording)
            framing = replace(self, frames=-(-amount // (self.bin_size or 1)))
        return framing.together(Stream.of([recording]))[0]

    def together(self, stream: Stream) -> np.ndarray:
        """Frames of many recordings, uint8 [N, H, W, T, C]: as one by one, but faster where they are short.

        T must be given. ValueError as above.
        """
        lengths = np.diff(stream.offsets)
        if lengths.min() < 1:
            raise ValueError(f"the recording holds no events (recording {int(lengths.argmin())} of {len(lengths)})")
        shape = self.shape(stream.height, stream.width)
        step = max(CELLS_TOGETHER // math.prod(shape), 1)
        if step >= len(lengths):
            return self._together(self._moved(stream))
        frames = np.empty((len(lengths), *shape), dtype=np.uint8)
        for start in range(0, len(frames), step):
            stop = min(start + step, len(frames))
            frames[start:stop] = self._together(self._moved(stream.part(start, stop)))
        return frames

    def shape(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(H, W, T, C) of the frames of a sensor of this size. For T that is given."""
        assert self.frames is not None
        size = (height, width) if self.sensor_size is None else (self.sensor_size, self.sensor_size)
        shape = (*size, self.frames, 1 if self.merge_polarity else 2)
        needed = math.prod(shape) * {"counts": 1, "voxel": 4, "surface": 8}[self.representation]
        if needed > LARGEST:
            seen = f"{needed} for {self.frames} frames of {size[0]} x {size[1]} (H, W)"
            raise ValueError(f"frames must take at most {LARGEST} bytes, got {seen}; sensor_size=SIDE shrinks them")
        return shape

    @property
    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(mean, std) that make of frames, normalised as images are, events, or the values of the surface."""
        level = {"counts": 1, "voxel": VOXEL_LEVELS, "surface": SURFACE_LEVELS}[self.representation] / 255
        channels = 1 if self.merge_polarity else 2
        return (0.0,) * channels, (level,) * channels

    def __str__(self) -> str:
        spans = {
            "time": "spans of equal length",
            "count": "runs of equally many events",
            "duration": f"spans of {self.bin_size} us",
            "events": f"runs of {self.bin_size} events",
        }[self.bins]
        kinds = {
            "counts": f"counts in {spans}",
            "voxel": "a voxel grid",
            "surface": f"time surfaces (tau {self.tau} us) at the end of {spans}",
        }
        merged = ", polarities merged" if self.merge_polarity else ""
        moved = "" if self.sensor_size is None else f", moved to {self.sensor_size} x {self.sensor_size} pixels"
        return f"{self.frames} frames of {kinds[self.representation]}{merged}{moved}"

    def _moved(self, stream: Stream) -> Stream:
        size = self.sensor_size
        if size is None or size == stream.height == stream.width:
            return stream
        if size > min(stream.height, stream.width):
            seen = f"{stream.height} x {stream.width}"
            raise ValueError(f"sensor_size must be at most the sides of the sensor, {seen} (H, W), got {size}")
        x, y = stream.x.astype(np.uint32) * size // stream.width, stream.y.astype(np.uint32) * size // stream.height
        return stream._replace(x=x, y=y, height=size, width=size)

    def _together(self, stream: Stream) -> np.ndarray:
        channels = 1 if self.merge_polarity else 2
        assert self.frames is not None
        if self.representation == "voxel":
            grid = voxel_grid(stream, self.frames, channels)
            return _levels(grid, VOXEL_LEVELS)
        edges, ends = self._edges(stream)
        stream, edges = _without_rest(stream, edges)
        if self.representation == "counts":
            return count_events(stream, edges, channels)
        return _levels(time_surface(stream, edges, ends, channels, tau=self.tau), SURFACE_LEVELS)

    def _edges(self, stream: Stream) -> tuple[np.ndarray, np.ndarray]:
        """Frame k of recording r has the events edges[r, k] to edges[r, k + 1], [N, T + 1]; when it ends [N, T]."""
        t, start, stop = stream.t, stream.offsets[:-1, None], stream.offsets[1:, None]
        size, frames = self.bin_size or 1, self.frames or 1
        steps = np.arange(1, frames + 1)
        if self.bins in ("count", "events"):
            upper = (
                np.minimum(steps * size, stop - start)
                if self.bins == "events"
                else -(-steps * (stop - start) // frames)
            )
            upper = upper + start
            ends = t[upper - 1]
        else:
            extent = np.maximum(t[stop - 1] - t[start], 1)
            ends = t[start] + (steps * size if self.bins == "duration" else -(-steps * extent // frames))
            spans = zip(pairwise(stream.offsets.tolist()), ends, strict=True)
            upper = np.stack([first + np.searchsorted(t[first:last], end) for (first, last), end in spans])
            if self.bins == "time":
                upper[:, -1:] = stop
        return np.concatenate([start, upper], axis=1), ends


def count_events(stream: Stream, edges: np.ndarray, channels: int) -> np.ndarray:
    """Events per pixel, frame and polarity, uint8 [N, H, W, T, C]; more than 255 count as 255."""
    shape = _shape(stream, edges, channels)
    cells, events = math.prod(shape), len(stream.t)
    # Counting in bytes, which wrap around at 256, is fast, and their sum tells if one did.
    counts = torch.zeros(-(-cells // 256) * 256, dtype=torch.uint8)
    one = torch.ones(min(events, EVENTS_TOGETHER), dtype=torch.uint8)
    for start in range(0, events, EVENTS_TOGETHER):
        cell = _cells(stream, edges, channels, start, start + EVENTS_TOGETHER)
        counts.scatter_add_(0, torch.from_numpy(cell), one[: len(cell)])
    frames = counts.numpy()
    if int(np.add.reduce(frames.reshape(256, -1), axis=0, dtype=np.uint16).sum(dtype=np.int64)) != events:
        frames = np.minimum(np.bincount(_cells(stream, edges, channels), minlength=cells), 255).astype(np.uint8)
    return frames[:cells].reshape(shape)


def voxel_grid(stream: Stream, frames: int, channels: int) -> np.ndarray:
    """Events shared by their two nearest frames, float32 [N, H, W, T, C].

    sum_i max(0, 1 - |k - (T - 1) (t_i - t_first) / (t_last - t_first)|) in frame k (Zhu et al. 2019, section 3.1); each
    polarity is summed in its own channel, where they sum signed events.
    """
    start, stop = stream.offsets[:-1], stream.offsets[1:]
    in_first = np.repeat(stop[:, None], frames + 1, axis=1)
    in_first[:, 0] = start
    cell, shape = _cells(stream, in_first, channels), _shape(stream, in_first, channels)
    first, extent = stream.t[start], np.maximum(stream.t[stop - 1] - stream.t[start], 1)
    passed = stream.t - np.repeat(first, stop - start)
    place = passed * (frames - 1) / np.repeat(extent, stop - start)
    frame = np.minimum(place.astype(np.int64), max(frames - 2, 0))
    later = (place - frame).astype(np.float32)
    cell += frame * channels
    grid = np.zeros(math.prod(shape), dtype=np.float32)
    np.add.at(grid, cell, 1 - later)
    if frames > 1:
        np.add.at(grid, cell + channels, later)
    return grid.reshape(shape)


def time_surface(stream: Stream, edges: np.ndarray, ends: np.ndarray, channels: int, *, tau: float) -> np.ndarray:
    """exp(-(t_end - t_last) / tau) of the last event before the end of each frame, else 0, float32 [N, H, W, T, C].

    Lagorce et al. 2017, section 3: of the whole sensor at the end of each frame, where they take the neighbourhood of
    each event.
    """
    cell, shape = _cells(stream, edges, channels), _shape(stream, edges, channels)
    last = np.full(math.prod(shape), NEVER)
    np.maximum.at(last, cell, stream.t)
    last = last.reshape(shape)
    np.maximum.accumulate(last, axis=3, out=last)
    last -= ends[:, None, None, :, None]
    surface = last.astype(np.float32)
    surface /= tau
    return np.exp(surface, out=surface)


def _levels(values: np.ndarray, levels: int) -> np.ndarray:
    """Values in place times `levels`, rounded, at most 255, as uint8."""
    values *= levels
    np.rint(values, out=values)
    return np.minimum(values, 255, out=values).astype(np.uint8)


def _shape(stream: Stream, edges: np.ndarray, channels: int) -> tuple[int, int, int, int, int]:
    """(N, H, W, T, C)."""
    return edges.shape[0], stream.height, stream.width, edges.shape[1] - 1, channels


def _cells(stream: Stream, edges: np.ndarray, channels: int, start: int = 0, stop: int | None = None) -> np.ndarray:
    """Where in [N, H, W, T, C] the events from `start` to `stop` fall, int64. edges: up to the ends of recordings."""
    recordings, *_, steps, _ = shape = _shape(stream, edges, channels)
    kind = np.int32 if math.prod(shape) < 2**31 else np.int64
    cell = stream.y[start:stop].astype(kind)
    cell *= stream.width
    cell += stream.x[start:stop]
    cell *= steps * channels
    origin = np.arange(recordings)[:, None] * math.prod(shape[1:]) + np.arange(steps) * channels
    lengths = np.diff(edges.clip(start, stop))
    cell += np.repeat(origin.ravel().astype(kind), lengths.ravel())
    if channels == 2:
        cell += stream.p[start:stop]
    return cell.astype(np.int64, copy=False)


def _without_rest(stream: Stream, edges: np.ndarray) -> tuple[Stream, np.ndarray]:
    """Without the events after the last edge of each recording."""
    rest = stream.offsets[1:] - edges[:, -1]
    if not rest.any():
        return stream, edges
    spans = np.stack([edges[:, -1] - edges[:, 0], rest], axis=1)
    kept = np.repeat(np.tile([True, False], len(edges)), spans.ravel())
    gone = np.append(0, np.cumsum(rest))
    events = (getattr(stream, name)[kept] for name in FIELDS)
    kept_stream = Stream(*events, offsets=stream.offsets - gone, height=stream.height, width=stream.width)
    return kept_stream, edges - gone[:-1, None]
