"""Event data sets are found in their folders, split as published, framed, cached, and their corrupt files handled."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from spimm.data import Recording, event_files, load_data
from spimm.data.frames import Framing

from .formats import writers

MESSAGE = "corrupt=skip leaves such out"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def write(path: Path, seed: int, size: int = 34, form: str = "atis") -> Recording:
    events = writers.random_events(60, size, size, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(getattr(writers, form)(events))
    return events


def n_mnist(root: Path) -> dict[str, list[Recording]]:
    """Two of each of two digits to train on, one of each to test on."""
    return {
        part: [
            write(root / "n-mnist" / part / str(digit) / f"{k:05}.bin", seed=10 * digit + k + offset)
            for digit in (0, 1)
            for k in range(count)
        ]
        for part, count, offset in (("Train", 2, 0), ("Test", 1, 100))
    }


def framed(recordings: list[Recording], framing: Framing) -> np.ndarray:
    """As a split gives them, [N, T, C, H, W]."""
    return np.stack([framing(one).transpose(2, 3, 0, 1) for one in recordings])


def images(split) -> np.ndarray:
    return np.stack([split[index][0].numpy() for index in range(len(split))])


def test_n_mnist_is_split_by_its_folders(tmp_path):
    written = n_mnist(tmp_path)
    data = load_data("n-mnist", data_dir=tmp_path, frames=3, bins="count")
    assert (data.frames, data.in_chans, data.image_size, data.class_names) == (3, 2, (34, 34), ("0", "1"))
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.labels.tolist() == [0, 1]
    for split, part in ((data.train, "Train"), (data.test, "Test")):
        assert np.array_equal(images(split), framed(written[part], Framing(3, "count")))
    assert "3 frames of counts in runs of equally many events, official split" in data.note


def test_every_setting_of_framing_reaches_the_frames(tmp_path):
    written = n_mnist(tmp_path)["Test"]
    for settings in (
        {"representation": "voxel"},
        {"representation": "surface", "merge_polarity": True},
        {"bins": "duration", "bin_size": 50_000, "sensor_size": 16},
    ):
        data = load_data("n-mnist", data_dir=tmp_path, frames=4, **settings)
        framing = Framing(4, **settings)
        assert np.array_equal(images(data.test), framed(written, framing))
        assert (data.mean, data.std) == framing.statistics


def test_recordings_framed_in_several_batches_keep_their_order(tmp_path, monkeypatch):
    written = n_mnist(tmp_path)["Train"]
    monkeypatch.setattr(event_files, "EVENTS_TOGETHER", 130)
    data = load_data("n-mnist", data_dir=tmp_path, frames=2)
    assert np.array_equal(images(data.train), framed(written, Framing(2)))


def test_frames_are_read_from_the_cache_until_a_file_or_a_setting_changes(tmp_path, cache, monkeypatch):
    n_mnist(tmp_path)
    first = load_data("n-mnist", data_dir=tmp_path, frames=2)
    read: list[Path] = []
    original = event_files.read_mended
    monkeypatch.setattr(
        event_files, "read_mended", lambda path, *rest, **more: read.append(path) or original(path, *rest, **more)
    )
    again = load_data("n-mnist", data_dir=tmp_path, frames=2)
    assert read == [] and len(os.listdir(cache)) == 1
    assert np.array_equal(images(again.train), images(first.train))
    load_data("n-mnist", data_dir=tmp_path, frames=3)
    assert len(read) == 6 and len(os.listdir(cache)) == 2
    changed = tmp_path / "n-mnist" / "Test" / "1" / "00000.bin"
    events = write(changed, seed=77)
    last = load_data("n-mnist", data_dir=tmp_path, frames=2)
    assert len(read) == 12
    assert np.array_equal(images(last.test)[1], framed([events], Framing(2))[0])


def test_another_folder_of_the_cache_can_be_given(tmp_path, cache):
    n_mnist(tmp_path)
    load_data("n-mnist", data_dir=tmp_path, frames=2, cache_dir=tmp_path / "other")
    assert len(os.listdir(tmp_path / "other")) == 1
    assert not cache.exists()


def test_a_corrupt_recording_is_refused_or_skipped_and_named(tmp_path):
    written = n_mnist(tmp_path)["Train"]
    torn, empty = (tmp_path / "n-mnist" / "Train" / name for name in ("0/00001.bin", "1/00000.bin"))
    torn.write_bytes(torn.read_bytes()[:-2])
    empty.write_bytes(b"")
    with pytest.raises(ValueError, match=rf"00001\.bin.*; {MESSAGE}"):
        load_data("n-mnist", data_dir=tmp_path, frames=2)
    for _ in range(2):  # built, then from the cache
        data = load_data("n-mnist", data_dir=tmp_path, frames=2, corrupt="skip")
        assert data.train.labels.tolist() == [0, 1]
        assert np.array_equal(images(data.train), framed([written[0], written[3]], Framing(2)))
        assert "2 that cannot be read left out" in data.note
        assert "00001.bin" in data.note and "00000.bin: holds no events" in data.note
        with pytest.raises(ValueError, match=rf"00001\.bin.*; {MESSAGE}"):
            load_data("n-mnist", data_dir=tmp_path, frames=2)


def test_the_note_names_some_of_many_skipped_and_a_part_of_skipped_only_is_an_error(tmp_path):
    root = tmp_path / "own"
    for part in ("train", "val"):
        write(root / part / "cat" / "good.bin", seed=1)
        for index in range(5):
            (root / part / "cat" / f"{index}.bin").write_bytes(b"abc")
    data = load_data(f"recordings:{root}", frames=2, corrupt="skip")
    assert "10 that cannot be read left out" in data.note and data.note.endswith("; and 7 more")
    (root / "val" / "cat" / "good.bin").unlink()
    with pytest.raises(ValueError, match=r"nothing of its test part can be read: .*0\.bin"):
        load_data(f"recordings:{root}", frames=2, corrupt="skip")


def cifar(root: Path) -> dict[str, list[Recording]]:
    return {
        name: [
            write(root / "cifar10-dvs" / name / f"cifar10_{name}_{k}.aedat", k + 20, 128, "cifar10_dvs")
            for k in range(12)
        ]
        for name in ("airplane", "ship")
    }


def test_cifar10_dvs_trains_on_the_first_of_each_class_by_name_as_the_authors_did(tmp_path):
    written = cifar(tmp_path)
    data = load_data("cifar10-dvs", data_dir=tmp_path, frames=2)
    assert data.train.labels.tolist() == [0] * 11 + [1] * 11
    assert data.test.labels.tolist() == [0, 1]
    held_out = [written[name][9] for name in ("airplane", "ship")]  # by name: 0 1 10 11 2 ... 9
    assert np.array_equal(images(data.test), framed(held_out, Framing(2)))
    half = load_data("cifar10-dvs", data_dir=tmp_path, frames=2, train_fraction=0.5)
    assert (len(half.train), len(half.test)) == (12, 12)


def test_a_seed_splits_by_class_at_random(tmp_path):
    cifar(tmp_path)
    splits = [load_data("cifar10-dvs", data_dir=tmp_path, frames=1, split_seed=seed) for seed in (0, 0, 1)]
    assert all(split.test.labels.bincount().tolist() in ([1, 2], [2, 1]) for split in splits)
    assert np.array_equal(images(splits[0].test), images(splits[1].test))
    assert not np.array_equal(images(splits[0].test), images(splits[2].test))
    assert "stratified split, train fraction 0.9, seed 0" in splits[0].note


def test_n_caltech101_is_split_by_seed_and_may_keep_the_archives_folder(tmp_path):
    for name in ("BACKGROUND_Google", "ant"):
        for index in range(10):
            write(tmp_path / "n-caltech101" / "Caltech101" / name / f"image_{index:04}.bin", index, 100)
    data = load_data("n-caltech101", data_dir=tmp_path, frames=1)
    assert (data.image_size, data.class_names) == ((180, 240), ("BACKGROUND_Google", "ant"))
    assert (data.train.labels.bincount().tolist(), data.test.labels.bincount().tolist()) == ([9, 9], [1, 1])


def gestures(root: Path) -> Recording:
    """Two trials of 300 ms: the first for training, with two gestures; returned is the first."""
    folder = root / "dvs-gesture" / "DvsGesture"
    for seed, name, part, labels in (
        (5, "user01_led", "train", "3,1000,100000\n11,150000,250000\n"),
        (6, "user24_led", "test", "1,0,300000\n"),
    ):
        write(folder / f"{name}.aedat", seed, 128, "aedat3")
        (folder / f"{name}_labels.csv").write_text(f"class,startTime_usec,endTime_usec\n{labels}")
        (folder / f"trials_to_{part}.txt").write_text(f"{name}.aedat\n\n")
    return writers.random_events(60, 128, 128, 5)


def test_dvs_gesture_has_a_sequence_for_each_labelled_window_of_its_trials(tmp_path):
    whole = gestures(tmp_path)
    data = load_data("dvs-gesture", data_dir=tmp_path, frames=2)
    assert data.num_classes == 11 and data.class_names[10] == "other gestures"
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([2, 10], [0])
    parts = [whole.take((whole.t >= start) & (whole.t < stop)) for start, stop in ((1000, 100000), (150000, 250000))]
    assert np.array_equal(images(data.train), framed(parts, Framing(2)))
    labels = tmp_path / "dvs-gesture" / "DvsGesture" / "user01_led_labels.csv"
    labels.write_text(labels.read_text() + "5,900000,900001\n")
    with pytest.raises(ValueError, match=rf"user01_led\.aedat: holds no events from 900000 to 900001 us; {MESSAGE}"):
        load_data("dvs-gesture", data_dir=tmp_path, frames=2)
    assert len(load_data("dvs-gesture", data_dir=tmp_path, frames=2, corrupt="skip").train) == 2


def test_own_recordings_of_several_formats_share_the_largest_sensor(tmp_path):
    root = tmp_path / "own"
    small, large = (write(root / "train" / "cat" / f"{size}.npz", size, size, "npz") for size in (20, 30))
    write(root / "train" / "dog" / "a.aedat", 3, 34, "aedat2")
    write(root / "test" / "cat" / "b.npz", 4, 20, "npz")
    write(root / "test" / "dog" / "c.bin", 5)
    data = load_data("recordings:own", data_dir=tmp_path, frames=2)
    assert (data.image_size, data.class_names) == ((128, 128), ("cat", "dog"))
    assert "test = its test folder" in data.note
    for index, one in enumerate((small, large)):
        found = data.train[index][0].numpy()
        assert np.array_equal(found[:, :, : one.height, : one.width], framed([one], Framing(2))[0])


def test_of_own_recordings_in_three_parts_val_chooses_the_epoch(tmp_path):
    for index, part in enumerate(("train", "val", "test")):
        write(tmp_path / "own" / part / "cat" / "a.npz", index, 20, "npz")
    data = load_data("recordings:own", data_dir=tmp_path, frames=2)
    assert data.val is not None and data.note.endswith("test = its test folder, val = its val folder")
    expected = framed([write(tmp_path / "again.npz", 1, 20, "npz")], Framing(2))[0]
    assert np.array_equal(data.val[0][0].numpy(), expected) and len(data.test) == 1


def test_a_sensor_is_asked_for_where_files_do_not_state_it(tmp_path):
    events = writers.random_events(60, 20, 20)
    for part in ("train", "val"):
        (tmp_path / "own" / part / "cat").mkdir(parents=True)
        arrays = {name: getattr(events, name) for name in "xytp"}
        np.savez(tmp_path / "own" / part / "cat" / "a.npz", **arrays)
    with pytest.raises(ValueError, match=r"does not state its sensor, expected sensor=\(height, width\)"):
        load_data("recordings:own", data_dir=tmp_path, frames=2)
    data = load_data("recordings:own", data_dir=tmp_path, frames=2, sensor=(21, 20))
    assert data.image_size == (21, 20)


def test_files_that_are_no_recordings_are_counted(tmp_path, caplog):
    n_mnist(tmp_path)
    folder = tmp_path / "n-mnist" / "Train" / "0"
    (folder / "notes.txt").write_text("of the one who copied them")
    (folder / "._00000.bin").write_bytes(b"junk")
    os.mkfifo(folder / "pipe.bin")
    with caplog.at_level("WARNING", "spimm.data"):
        load_data("n-mnist", data_dir=tmp_path, frames=2)
    (said,) = (record.getMessage() for record in caplog.records if "passed over" in record.getMessage())
    assert said.endswith("files passed over: 1 .txt, 1 broken links or no files, 1 hidden or of the system")


@pytest.mark.parametrize(
    ("missing", "spec", "message"),
    [
        ("n-mnist/Test", "n-mnist", "Test must hold one folder of event files per class, got none"),
        (
            "n-mnist/Train/0/00000.bin n-mnist/Train/0/00001.bin",
            "n-mnist",
            "Train must hold event files in every class folder, got none in 0",
        ),
        ("dvs-gesture/DvsGesture/trials_to_test.txt", "dvs-gesture", "must hold trials_to_test.txt"),
        ("dvs-gesture/DvsGesture/user24_led_labels.csv", "dvs-gesture", "user24_led_labels.csv"),
        ("dvs-gesture/DvsGesture/user24_led.aedat", "dvs-gesture", "user24_led.aedat"),
        ("", "n-caltech101", "n-caltech101 must hold one folder of event files per class, got none"),
        ("", "recordings:none", "recordings:none is not found: there is no .*none and there is no .*none"),
        ("", "recordings:dvs-gesture/empty", r"empty must hold the folders train/ and val/ \(or test/\)"),
    ],
)
def test_what_is_missing_is_named(tmp_path, missing, spec, message):
    n_mnist(tmp_path)
    gestures(tmp_path)
    (tmp_path / "dvs-gesture" / "empty").mkdir()
    for name in missing.split():
        os.rename(tmp_path / name, tmp_path / f"gone{name.count('/')}{Path(name).name}")
    with pytest.raises(FileNotFoundError, match=message):
        load_data(spec, data_dir=tmp_path, frames=2)


def test_parts_of_other_classes_are_refused(tmp_path):
    n_mnist(tmp_path)
    write(tmp_path / "n-mnist" / "Test" / "7" / "a.bin", 1)
    with pytest.raises(ValueError, match=r"only one of them has \['7'\]"):
        load_data("n-mnist", data_dir=tmp_path, frames=2)


def test_an_impossible_share_of_training_is_refused(tmp_path):
    cifar(tmp_path)
    with pytest.raises(ValueError, match="train_fraction must lie between 0 and 1, got 1"):
        load_data("cifar10-dvs", data_dir=tmp_path, frames=2, train_fraction=1.0)
