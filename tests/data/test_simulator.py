import math

import numpy as np
import pytest

from spimm.data import simulate_events

OFFSET = 1e-3


def video(*levels: list[float]) -> np.ndarray:
    """Frames [N, 1, P] whose logarithm goes through these levels below 0, one list for each pixel."""
    return np.exp(np.array(levels).T[:, None, :]) - OFFSET


def ramp(begin: float, end: float, frames: int) -> np.ndarray:
    return video(np.linspace(begin, end, frames).tolist())


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape)


def signed(recording, height: int, width: int) -> np.ndarray:
    """Events of polarity 1 less those of polarity 0, [H, W]."""
    total = np.zeros((height, width), dtype=int)
    np.add.at(total, (recording.y, recording.x), 2 * recording.p.astype(int) - 1)
    return total


@pytest.mark.parametrize("frames", [2, 5, 11])
def test_a_pixel_that_brightens_evenly_in_log_fires_at_even_times(frames):
    recording = simulate_events(ramp(-2, -1, frames), np.linspace(0, 10_000, frames).astype(int), threshold=0.125)
    assert recording.t.tolist() == [1250, 2500, 3750, 5000, 6250, 7500, 8750, 10_000]
    assert recording.p.tolist() == [1] * 8
    assert (recording.height, recording.width) == (1, 1)


def test_times_between_frames_follow_the_line_between_their_levels():
    recording = simulate_events(video([-3, -2.5, -2.5, -1.5]), np.array([0, 1000, 5000, 5100]), threshold=0.4)
    assert recording.t.tolist() == [800, 5030, 5070]


def test_thresholds_may_differ_by_polarity():
    up_and_down = video([-2, -1, -2])
    recording = simulate_events(up_and_down, np.array([0, 1000, 2000]), threshold=0.3, off_threshold=0.2)
    # Up to -1.1 in three steps of 0.3, then down in steps of 0.2 from there.
    assert recording.p.tolist() == [1] * 3 + [0] * 4
    assert recording.t.tolist() == [300, 600, 900, 1300, 1500, 1700, 1900]


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_a_video_that_does_not_change_gives_no_events(kind):
    still = (np.arange(12).reshape(1, 3, 4) / 12 * (255 if kind == np.uint8 else 1)).astype(kind)
    recording = simulate_events(np.repeat(still, 5, axis=0), np.arange(5))
    assert (len(recording), recording.height, recording.width) == (0, 3, 4)


def test_half_the_threshold_gives_twice_the_events():
    frames, times = ramp(-4, -1, 7), np.arange(7) * 100
    counts = [len(simulate_events(frames, times, threshold=threshold)) for threshold in (0.5, 0.25, 0.125)]
    assert counts == [6, 12, 24]


def test_a_video_run_backwards_gives_the_other_polarity_at_the_mirrored_times():
    frames, times = video([-4, -3.7, -2.1, -1.4, -1]), np.arange(5) * 1000
    there, back = (simulate_events(one, times, threshold=0.25) for one in (frames, frames[::-1]))
    assert (there.p.tolist(), back.p.tolist()) == ([1] * 12, [0] * 12)
    # Both meet the same levels, the last of the one way being that of the first frame the other way.
    assert np.abs(back.t[:-1] - (4000 - there.t[-2::-1])).max() <= 1


@pytest.mark.parametrize("threshold", [0.07, 0.2, 0.5])
def test_events_add_up_to_the_change_to_within_a_threshold(threshold):
    frames = noise(20, 6, 5)
    recording = simulate_events(frames, np.arange(20) * 1000, threshold=threshold)
    change = np.log(frames[-1] + OFFSET) - np.log(frames[0] + OFFSET)
    assert np.abs(signed(recording, 6, 5) * threshold - change).max() < threshold
    assert len(recording) > 500


def test_bytes_are_luminance_in_255ths():
    frames = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8)
    first, second = (simulate_events(video, np.arange(6) * 500) for video in (frames, frames / 255))
    assert all(np.array_equal(getattr(first, name), getattr(second, name)) for name in "xytp")


def test_pixels_do_not_see_each_other_and_events_come_in_the_order_of_time():
    frames, times = noise(8, 3, 4), np.arange(8) * 1000
    whole = simulate_events(frames, times)
    assert (np.diff(whole.t) >= 0).all()
    for y, x in np.ndindex(3, 4):
        alone = simulate_events(frames[:, y : y + 1, x : x + 1], times)
        mine = (whole.y == y) & (whole.x == x)
        assert np.array_equal(alone.t, whole.t[mine]) and np.array_equal(alone.p, whole.p[mine])


def test_events_within_the_refractory_period_are_lost_across_frames_too():
    times = np.array([0, 500, 1000])
    everything = simulate_events(ramp(-2, -1, 3), times, threshold=0.1)
    spaced = simulate_events(ramp(-2, -1, 3), times, threshold=0.1, refractory=250)
    assert everything.t.tolist() == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    assert spaced.t.tolist() == [100, 400, 700, 1000]


def test_a_leaking_pixel_fires_at_its_rate_where_nothing_changes():
    still = np.full((3, 1, 2), 0.5)
    recording = simulate_events(still, np.array([0, 300_000, 1_000_000]), leak_rate=4.0)
    assert recording.t.tolist() == [250_000] * 2 + [500_000] * 2 + [750_000] * 2 + [1_000_000] * 2
    assert recording.p.all()


def test_threshold_noise_gives_each_pixel_its_own_thresholds_from_the_seed():
    frames = np.repeat(ramp(-5, -1, 2), 400, axis=2)
    settings = {"times": np.array([0, 1000]), "threshold": 0.2, "threshold_noise": 0.03}
    first, again, other = (simulate_events(frames, **settings, seed=seed) for seed in (1, 1, 2))
    assert np.array_equal(first.t, again.t) and not np.array_equal(first.t, other.t)
    onset = [first.t[first.x == pixel][0] for pixel in range(400)]  # where 0.004 of log is a microsecond
    assert np.mean(onset) * 0.004 == pytest.approx(0.2, abs=0.01)
    assert np.std(onset) * 0.004 == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((2, 3))}, r"\[N, H, W\] with a pixel, got float64 \[2, 3\]"),
        ({"frames": np.zeros((2, 3, 3), dtype=np.int64)}, "uint8 or float .* got int64"),
        ({"frames": np.zeros((1, 3, 3)), "times": np.array([0])}, "frames must be at least 2, got 1"),
        ({"frames": np.full((2, 3, 3), 1.5)}, r"must lie in \[0, 1\], got 1.5 to 1.5"),
        ({"frames": np.full((2, 3, 3), math.nan)}, r"must lie in \[0, 1\], got nan"),
        ({"times": np.array([0.0, 1.0])}, r"times must be 2 integers .* got float64 \[2\]"),
        ({"times": np.array([0, 1, 2])}, r"times must be 2 integers .* got int64 \[3\]"),
        ({"times": np.array([5, 5])}, "times must rise, got 5 then 5 at frame 1"),
        ({"threshold": 0.0}, "threshold must be more than 0 and finite, got 0.0"),
        ({"off_threshold": math.inf}, "off_threshold must be more than 0 and finite, got inf"),
        ({"offset": -1.0}, "offset must be more than 0 and finite, got -1.0"),
        ({"refractory": -5}, "refractory must be 0 or more and finite, got -5"),
        ({"threshold_noise": math.nan}, "threshold_noise must be 0 or more and finite, got nan"),
        ({"leak_rate": -1.0}, "leak_rate must be 0 or more and finite, got -1.0"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        simulate_events(**{"frames": np.full((2, 3, 3), 0.5), "times": np.array([0, 1000]), **change})
