"""Where a relative path starts, what an error says of it, and paths that hold from any folder."""

import logging

import numpy as np
import pytest

from spimm.data import load_data, pin
from spimm.data.places import _tell


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data folder and a working folder, which is the current one."""
    for name in ("data", "work"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("SPIMM_DATA", str(tmp_path / "data"))
    _tell.cache_clear()
    return tmp_path


def archive(path, images: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (images, 4, 4), dtype=np.uint8)
    np.savez(path, x_train=pixels, y_train=np.arange(images), x_test=pixels, y_test=np.arange(images))


@pytest.mark.parametrize("explicit", [False, True])
def test_the_data_folder_comes_first_then_the_working_folder_which_is_said(place, explicit, caplog) -> None:
    data_dir = place / "data" if explicit else None
    archive(place / "work" / "set.npz", 2)
    with caplog.at_level(logging.WARNING):
        assert len(load_data("npz:set.npz", data_dir=data_dir).train) == 2
        load_data("npz:set.npz", data_dir=data_dir)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == (
        f"npz:set.npz is taken from the working folder ({place / 'work' / 'set.npz'}): "
        f"the data folder {place / 'data'} has none"
    )
    archive(place / "data" / "set.npz", 3)
    assert len(load_data("npz:set.npz", data_dir=data_dir).train) == 3


@pytest.mark.parametrize("spec", ["npz:set.npz", "folder:photos", "recordings:films", "events:e.npz"])
def test_what_is_in_neither_place_is_answered_with_both(place, spec) -> None:
    frames = 2 if spec.startswith(("events", "recordings")) else None
    with pytest.raises(FileNotFoundError) as caught:
        load_data(spec, frames=frames)
    text = str(caught.value)
    for tried in (place / "work", place / "data"):
        assert f"there is no {tried / spec.partition(':')[2]}" in text
    assert "--data-dir FOLDER (data_dir=FOLDER in Python)" in text and len(text.splitlines()) <= 3


def test_a_pinned_path_holds_from_any_folder(place, monkeypatch) -> None:
    archive(place / "work" / "set.npz", 2)
    pinned = pin("npz:set.npz", None)
    assert pinned == (f"npz:{place / 'work' / 'set.npz'}", None)
    assert pin("mnist", "../data") == ("mnist", str(place / "work" / ".." / "data"))
    assert pin("digits", None) == ("digits", None)
    monkeypatch.chdir("/")
    monkeypatch.delenv("SPIMM_DATA")
    assert len(load_data(pinned[0]).train) == 2
