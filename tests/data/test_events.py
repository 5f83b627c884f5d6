import numpy as np
import pytest
import torch

from spimm.data import load_data


def recordings(*lengths: int, height: int = 6, width: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    """x, y, t, p, offsets and labels of random recordings that cover a sensor of this size."""
    random, events = np.random.default_rng(seed), sum(lengths)
    x, y = random.integers(0, width, events), random.integers(0, height, events)
    x[0], y[0] = width - 1, height - 1
    return {
        "x": x.astype(np.uint8),
        "y": y.astype(np.uint8),
        "t": np.concatenate([np.sort(random.integers(0, 300_000, length)) for length in lengths]).astype(np.uint32),
        "p": random.integers(0, 2, events).astype(np.uint8),
        "offsets": np.cumsum([0, *lengths]),
        "labels": np.arange(len(lengths), dtype=np.uint8) % 3,
    }


def archive(train: dict[str, np.ndarray], test: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
    test = recordings(40, 50, 60, seed=1) if test is None else test
    parts = {"train": train, "test": test}
    return {f"{part}_{key}": values for part, arrays in parts.items() for key, values in arrays.items()}


def load(folder, arrays: dict[str, np.ndarray], frames: int = 4, **settings):
    np.savez(folder / "events.npz", **arrays)
    return load_data("events:events.npz", data_dir=folder, frames=frames, **settings)


def one(t: list[int]) -> dict[str, np.ndarray]:
    """A recording of positive events at these times in the first pixel."""
    zero, offsets = np.zeros(len(t), dtype=int), np.array([0, len(t)])
    return {"x": zero, "y": zero, "t": np.array(t), "p": zero + 1, "offsets": offsets, "labels": np.array([2])}


@pytest.mark.parametrize("bins", ["time", "count"])
def test_frames_count_the_events_of_each_pixel_polarity_and_bin(tmp_path, bins):
    train = recordings(70, 90, 80)
    data = load(tmp_path, archive(train), bins=bins)
    expected = np.zeros((3, 4, 2, 6, 5), dtype=int)
    for index in range(3):
        start, stop = train["offsets"][index : index + 2]
        first, last = int(train["t"][start]), int(train["t"][stop - 1])
        for event in range(start, stop):
            passed = (
                (int(train["t"][event]) - first) / (last - first)
                if bins == "time"
                else (event - start) / (stop - start)
            )
            frame = min(int(passed * 4), 3)
            expected[index, frame, train["p"][event], train["y"][event], train["x"][event]] += 1
    assert (data.frames, data.in_chans, data.image_size, data.num_classes) == (4, 2, (6, 5), 3)
    for index in range(3):
        frames, label = data.train[index]
        assert (frames.dtype, label) == (torch.uint8, index)
        assert np.array_equal(frames.numpy(), expected[index])


@pytest.mark.parametrize(("bins", "counts"), [("time", [4, 0, 1, 1]), ("count", [2, 1, 2, 1])])
def test_bins_have_equal_duration_or_equally_many_events(tmp_path, bins, counts):
    data = load(tmp_path, archive(one([100, 101, 102, 103, 150, 180])), bins=bins)
    assert data.train[0][0].sum((1, 2, 3)).tolist() == counts


def test_events_at_one_instant_fall_into_the_first_frame(tmp_path):
    assert load(tmp_path, archive(one([7, 7, 7]))).train[0][0].sum((1, 2, 3)).tolist() == [3, 0, 0, 0]


def test_more_than_255_events_count_as_255(tmp_path):
    frames, _ = load(tmp_path, archive(one(list(range(300)))), frames=1).train[0]
    assert int(frames[0, 1, 0, 0]) == 255


def test_the_sensor_is_as_large_as_the_file_says_or_the_coordinates_of_both_parts(tmp_path):
    arrays = archive(recordings(30, height=3, width=8), recordings(30, height=7, width=4))
    assert load(tmp_path, arrays).image_size == (7, 8)
    assert load(tmp_path, arrays | {"sensor_hw": np.array([9, 10])}).image_size == (9, 10)
    assert load(tmp_path, archive(one([1, 2]), one([1, 2]))).image_size == (1, 1)


def test_class_names_are_taken_and_the_note_says_how_events_were_binned(tmp_path):
    data = load(tmp_path, archive(recordings(30)) | {"classes": np.array(["wave", "clap", "roll"])}, bins="count")
    assert data.class_names == ("wave", "clap", "roll")
    assert "4 frames of counts in runs of equally many events" in data.note


def changed(**changes) -> dict[str, np.ndarray]:
    """Recordings of 30 and 40 events in which some values are others: name=(index, value) or name=array."""
    train = recordings(30, 40)
    for name, change in changes.items():
        train[name] = train[name].astype(int)
        if isinstance(change, tuple):
            train[name][change[0]] = change[1]
        else:
            train[name] = change
    return archive(train)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (changed(x=(33, -2)), "x must be 0 or more, got -2 in recording 1, event 3"),
        (changed(p=(29, 2)), "p must be 0 or 1, got 2 in recording 0, event 29"),
        (changed(t=(31, -5)), "t must be not less than the event's before it, got -5 in recording 1, event 1"),
        (changed(t=np.zeros(70)), r"t must be a list of integers, got float64 \[70\]"),
        (changed(y=np.zeros(69, int)), "x, y, t and p must agree in length, got 70 x and 69 y"),
        (
            changed(offsets=np.array([0, 30, 30, 70])),
            r"every recording must have an event, got none in recording 1 \(offsets 30 to 30\)",
        ),
        (
            changed(offsets=np.array([0, 80, 70])),
            r"every recording must have an event, got none in recording 1 \(offsets 80 to 70\)",
        ),
        (changed(offsets=np.array([0, 30])), r"offsets must go from 0 to 70 \(events\), got 0 to 30"),
        (changed(offsets=np.array([5, 30, 70])), r"offsets must go from 0 to 70 \(events\), got 5 to 70"),
        (changed(offsets=np.array([], int)), r"offsets must be integers \[N \+ 1\], N > 0, got 0"),
        (changed(labels=np.zeros(3, int)), "images and labels must agree in length, got 2 and 3"),
        (
            changed(x=(35, 7)) | {"sensor_hw": np.array([6, 5])},
            r"x must be in \[0, 5\) for a sensor of 6 x 5 \(H, W\), got 7 in recording 1, event 5",
        ),
    ],
)
def test_wrong_content_is_refused_by_part_recording_and_value(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=rf"events\.npz, train: {message}"):
        load(tmp_path, arrays)


def test_a_sensor_without_pixels_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"events\.npz: sensor_hw must be .* got \[6, 0\]"):
        load(tmp_path, changed() | {"sensor_hw": np.array([6, 0])})


def test_the_part_with_wrong_content_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"events\.npz, test: p must be 0 or 1, got 9"):
        load(tmp_path, archive(recordings(30), recordings(30) | {"p": np.full(30, 9)}))


def test_missing_arrays_and_damaged_files_are_reported(tmp_path):
    arrays = archive(recordings(30))
    del arrays["test_p"]
    with pytest.raises(ValueError, match=r"holds the arrays \['test_labels'.*wanted train_x, train_y"):
        load(tmp_path, arrays)
    path = tmp_path / "events.npz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"events\.npz is not a readable \.npz"):
        load_data("events:events.npz", data_dir=tmp_path, frames=4)
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        load_data("events:absent.npz", data_dir=tmp_path, frames=4)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("events:events.npz", {}, "takes frames=T, .*got frames=None"),
        ("events:events.npz", {"frames": 0}, "frames must be at least 1, got 0"),
        (
            "events:events.npz",
            {"frames": 4, "bins": "width"},
            "bins must be time, count, duration or events, got 'width'",
        ),
        ("events:events.npz", {"frames": 4, "image_size": 32}, "keeps the size of its sensor, got image_size=32"),
        ("digits", {"frames": 4}, "digits takes no frames: only events do, got frames=4"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, spec, settings, message):
    np.savez(tmp_path / "events.npz", **archive(recordings(30)))
    with pytest.raises(ValueError, match=message):
        load_data(spec, data_dir=tmp_path, **settings)
