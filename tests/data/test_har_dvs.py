from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spimm.data import load_data
from spimm.data.har_dvs import events_of_grey


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPIMM_CACHE", str(tmp_path / "cache"))


def record(folder: Path, levels: list[int]) -> None:
    """An image of one grey a level."""
    folder.mkdir(parents=True)
    for number, level in enumerate(levels):
        Image.fromarray(np.full((6, 8), level, np.uint8)).save(folder / f"{number}.png")


def published(root: Path) -> None:
    record(root / "har-dvs" / "action_001" / "dvSave-a", [10, 100, 250])
    record(root / "har-dvs" / "action_002" / "dvSave-b", [0] * 12)
    record(root / "har-dvs" / "action_002" / "dvSave-c", [10 * number for number in range(12)])
    (root / "har-dvs" / "train_label.txt").write_text("action_001/dvSave-a 3 0\naction_002/dvSave-b 12 1\n\n")
    (root / "har-dvs" / "test_label.txt").write_text("action_002/dvSave-c 12 1\n")


def test_dark_and_bright_greys_become_events_of_two_channels():
    grey = np.array([[0, 30, 31, 76, 77, 198, 199, 255]], np.uint8)
    found = events_of_grey(grey)
    assert found[0, :, 0].tolist() == [1, 1, 0, 0, 0, 0, 0, 0]
    assert found[0, :, 1].tolist() == [0, 0, 0, 0, 1, 1, 0, 0]


def test_recordings_of_the_lists_are_framed_short_ones_filled_up_long_ones_thinned(tmp_path):
    published(tmp_path)
    data = load_data("har-dvs", data_dir=tmp_path, frames=4)
    assert (data.class_names, data.image_size, data.frames) == (("action_001", "action_002"), (6, 8), 4)
    assert (data.train.labels.tolist(), data.test.labels.tolist()) == ([0, 1], [1])
    first = data.train[0][0].numpy()  # 10, 100, 250, none
    assert first[:, :, 0, 0].tolist() == [[1, 0], [0, 1], [0, 0], [0, 0]]
    assert (first == first[:, :, :1, :1]).all()
    last = data.test[0][0].numpy()  # of 0, 10, ... 110: 0, 30, 60, 90
    assert last[:, :, 0, 0].tolist() == [[1, 0], [1, 0], [0, 0], [0, 1]]


def test_images_are_resized_and_the_frames_are_another_entry_of_the_cache(tmp_path):
    published(tmp_path)
    assert load_data("har-dvs", data_dir=tmp_path, frames=4).image_size == (6, 8)
    assert load_data("har-dvs", data_dir=tmp_path, frames=4, image_size=5).image_size == (5, 5)


def test_without_lists_the_folders_train_and_test_are_the_split(tmp_path):
    for part in ("train", "test"):
        record(tmp_path / "har-dvs" / part / "wave" / "r1", [10])
    data = load_data("har-dvs", data_dir=tmp_path, frames=1)
    assert (data.class_names, len(data.train), len(data.test)) == (("wave",), 1, 1)


def test_a_corrupt_image_is_refused_or_its_recording_skipped(tmp_path):
    published(tmp_path)
    (tmp_path / "har-dvs" / "action_001" / "dvSave-a" / "1.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"dvSave-a/1\.png cannot be decoded .*; corrupt=skip leaves such out$"):
        load_data("har-dvs", data_dir=tmp_path, frames=4)
    data = load_data("har-dvs", data_dir=tmp_path, frames=4, corrupt="skip")
    assert data.train.labels.tolist() == [1]
    assert "1 that cannot be read left out: " in data.note and "leaves such" not in data.note


def test_what_is_missing_or_unknown_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train_label\.txt and test_label\.txt, or train/CLASS/RECORDING/"):
        load_data("har-dvs", data_dir=tmp_path, frames=4)
    published(tmp_path)
    record(tmp_path / "har-dvs" / "action_003" / "d", [1])
    lists = tmp_path / "har-dvs" / "test_label.txt"
    lists.write_text("action_003/d 1 2\n")
    with pytest.raises(ValueError, match=r"test has the classes \['action_003'\], which train has not"):
        load_data("har-dvs", data_dir=tmp_path, frames=4)
    lists.write_text("action_002/e 1 1\n")
    with pytest.raises(FileNotFoundError, match="action_002/e must hold the images of a recording"):
        load_data("har-dvs", data_dir=tmp_path, frames=4)
