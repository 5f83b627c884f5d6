"""Frames equal those of a loop over events, whatever the bins and the representation."""

import numpy as np
import pytest

from spimm.data import frames as frames_module
from spimm.data.frames import VOXEL_LEVELS, Framing, Stream
from spimm.data.recording import Recording

SIZED = [("time", None), ("count", None), ("duration", 400), ("events", 60)]


def recording(count: int, *, height: int = 7, width: int = 9, seed: int = 0) -> Recording:
    random = np.random.default_rng(seed + count)
    t = np.sort(random.integers(50, 3050, count))
    x, y, p = (random.integers(0, limit, count) for limit in (width, height, 2))
    return Recording(x, y, t, p, height, width)


def at(t: list[int], p: int = 1) -> Recording:
    """Events at these times in the one pixel of a sensor."""
    zero = np.zeros(len(t), dtype=int)
    return Recording(zero, zero, np.array(t), zero + p, 1, 1)


def step_of(event: int, one: Recording, framing: Framing) -> int:
    passed, n, size = int(one.t[event] - one.t[0]), len(one), framing.bin_size or 1
    frames = framing.frames or 1
    return {
        "time": min(passed * frames // max(one.duration, 1), frames - 1),
        "count": event * frames // n,
        "duration": passed // size,
        "events": event // size,
    }[framing.bins]


def where(event: int, one: Recording, framing: Framing) -> tuple[int, int, int]:
    """Row, column and channel."""
    height, width, _, channels = framing.shape(one.height, one.width)
    y, x = int(one.y[event]) * height // one.height, int(one.x[event]) * width // one.width
    return y, x, int(one.p[event]) if channels == 2 else 0


def counted(one: Recording, framing: Framing) -> np.ndarray:
    expected = np.zeros(framing.shape(one.height, one.width), dtype=int)
    for event in range(len(one)):
        step, (y, x, p) = step_of(event, one, framing), where(event, one, framing)
        if step < expected.shape[2]:
            expected[y, x, step, p] += 1
    return np.minimum(expected, 255)


@pytest.mark.parametrize("bins", SIZED, ids=lambda bins: bins[0])
@pytest.mark.parametrize("frames", [1, 3, 8])
@pytest.mark.parametrize(("merge", "side"), [(False, None), (True, 4)])
def test_counts_are_those_of_a_loop_over_events(bins, frames, merge, side):
    framing = Framing(frames, *bins, merge_polarity=merge, sensor_size=side)
    for count in (1, 2, 50, 700):
        one = recording(count)
        found = framing(one)
        assert found.dtype == np.uint8
        assert np.array_equal(found, counted(one, framing))


@pytest.mark.parametrize(
    ("representation", "bins"),
    [("voxel", SIZED[0]), *((kind, bins) for kind in ("counts", "surface") for bins in SIZED)],
)
def test_recordings_framed_together_are_framed_as_each_alone(representation, bins, monkeypatch):
    monkeypatch.setattr(frames_module, "CELLS_TOGETHER", 3 * 7 * 9 * 5 * 2)  # three at a time
    framing = Framing(5, *bins, representation)
    alone = [recording(count) for count in (3, 400, 1, 80, 2, 700, 33)]
    assert np.array_equal(framing.together(Stream.of(alone)), np.stack([framing(one) for one in alone]))


def test_a_voxel_grid_shares_an_event_between_its_two_nearest_frames():
    one = at([100, 125, 200, 400])
    grid = Framing(4, representation="voxel")(one)[0, 0] / VOXEL_LEVELS
    assert grid[:, 0].tolist() == [0, 0, 0, 0]
    assert grid[:, 1].tolist() == [1.75, 1.25, 0, 1]


@pytest.mark.parametrize("frames", [1, 2, 7])
@pytest.mark.parametrize("merge", [False, True])
def test_a_voxel_grid_is_the_sum_of_triangles(frames, merge):
    one = recording(40)
    framing = Framing(frames, representation="voxel", merge_polarity=merge)
    expected = np.zeros(framing.shape(one.height, one.width))
    for event in range(len(one)):
        y, x, p = where(event, one, framing)
        place = (frames - 1) * (one.t[event] - one.t[0]) / one.duration
        expected[y, x, :, p] += np.maximum(0, 1 - np.abs(np.arange(frames) - place))
    assert np.abs(framing(one) - VOXEL_LEVELS * expected).max() <= 0.5 + 1e-4


def test_a_time_surface_decays_from_the_last_event_and_remembers_earlier_frames():
    one = at([0, 100, 1000])
    surface = Framing(4, "duration", 200, "surface", tau=300)(one)[0, 0, :, 1]
    assert surface.tolist() == np.rint(255 * np.exp(-np.array([100, 300, 500, 700]) / 300)).tolist()
    assert Framing(4, "duration", 200, "surface", tau=300)(one)[0, 0, :, 0].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("bins", SIZED, ids=lambda bins: bins[0])
def test_a_time_surface_is_255_where_the_last_event_of_its_frame_was(bins):
    one = recording(700)
    framing = Framing(3, *bins, "surface", tau=10**9)
    assert np.array_equal(framing(one)[:, :, -1] == 255, np.maximum.accumulate(counted(one, framing), 2)[:, :, -1] > 0)


@pytest.mark.parametrize("count", [255, 256, 512, 70_000])
def test_counts_end_at_255_whatever_a_byte_holds(count):
    assert Framing(1)(at([5] * count))[0, 0, 0].tolist() == [0, 255]


def test_events_counted_in_several_rounds_are_all_counted(monkeypatch):
    alone = [recording(count) for count in (700, 1, 400)]
    together = Framing(3).together(Stream.of(alone))
    monkeypatch.setattr(frames_module, "EVENTS_TOGETHER", 64)
    assert np.array_equal(Framing(3).together(Stream.of(alone)), together)
    assert Framing(1)(at([5] * 300))[0, 0, 0].tolist() == [0, 255]


def test_frames_of_a_size_are_as_many_as_the_recording_fills():
    one = at([10, 20, 29, 30])
    assert Framing(None, "duration", 10)(one)[0, 0, :, 1].tolist() == [1, 2, 1]
    assert Framing(None, "events", 3)(one)[0, 0, :, 1].tolist() == [3, 1]


def test_statistics_make_events_of_levels():
    for framing, one in ((Framing(1), 1.0), (Framing(1, representation="voxel"), 1.0)):
        (mean, _), (std, _) = framing.statistics
        assert (framing(at([7]))[0, 0, 0, 1] / 255 - mean) / std == pytest.approx(one)
    assert Framing(1, merge_polarity=True).statistics == ((0.0,), (1 / 255,))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"frames": 0}, "frames must be at least 1, got 0"),
        ({"bins": "width"}, "bins must be time, count, duration or events, got 'width'"),
        ({"representation": "grid"}, "representation must be counts, voxel or surface, got 'grid'"),
        ({"bins": "duration"}, "bins=duration takes a bin_size, in microseconds or events, got None"),
        ({"bins": "count", "bin_size": 5}, "bins=count takes no bin_size, got 5"),
        ({"frames": None}, "bins=time needs a number of frames, got frames=None"),
        ({"bins": "count", "representation": "voxel"}, "takes bins=time, got count"),
        ({"tau": 0}, "tau must be at least 1, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Framing(**{"frames": 4, **settings})


def test_frames_may_take_as_many_bytes_as_the_limit_and_not_one_more():
    assert Framing(1).shape(2**14, 2**15) == (2**14, 2**15, 1, 2)  # 2**30 bytes
    with pytest.raises(ValueError, match=r"at most 1073741824 bytes, got 1073774592 for 1 frames of 32769 x 32768"):
        Framing(1, merge_polarity=True).shape(2**15 + 1, 2**15)


def test_a_recording_without_events_or_on_a_smaller_sensor_is_refused():
    with pytest.raises(ValueError, match=r"holds no events \(recording 1 of 2\)"):
        Framing(4).together(Stream.of([recording(3), recording(0)]))
    with pytest.raises(ValueError, match="holds no events"):
        Framing(None, "events", 3)(recording(0))
    with pytest.raises(ValueError, match=r"at most the sides of the sensor, 7 x 9 \(H, W\), got 8"):
        Framing(4, sensor_size=8)(recording(3))
    with pytest.raises(ValueError, match=r"one sensor size, got \[\(7, 9\), \(7, 10\)\]"):
        Stream.of([recording(3), recording(3, width=10)])
