import numpy as np
import pytest

from spimm.data import list_data, load_data
from spimm.data.registry import EVENTS

ALL_WAYS = r"--data-dir FOLDER \(data_dir=FOLDER in Python\) or set the environment variable SPIMM_DATA"


def write_archive(path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 4, 4), dtype=np.uint8)
    np.savez(path, x_train=images, y_train=np.arange(2), x_test=images, y_test=np.arange(2))


def test_every_listed_form_is_understood(tmp_path):
    for form in list_data():
        spec = form.replace("FILE", "none.npz").replace("PATH", "none")
        frames = 4 if spec.partition(":")[0] in EVENTS else None
        if spec.startswith("digits"):
            assert load_data(spec, frames=frames).name == spec
        else:
            with pytest.raises(FileNotFoundError):
                load_data(spec, data_dir=tmp_path, frames=frames)


@pytest.mark.parametrize(
    ("spec", "nearest"), [("cifar-10", "cifar10"), ("MNIST", "mnist"), ("digit", "digits"), ("digits:8", "digits")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_all_known(spec, nearest):
    with pytest.raises(ValueError, match=rf"unknown data set '{spec}', did you mean '{nearest}'\?; known: digits, "):
        load_data(spec)


def test_a_name_like_no_other_gets_no_guess():
    with pytest.raises(ValueError, match="unknown data set 'qqqq'; known: digits"):
        load_data("qqqq")


@pytest.mark.parametrize("spec", ["npz", "npz:", "folder:", "events:"])
def test_a_form_without_its_path_is_refused(spec):
    with pytest.raises(ValueError, match="lacks a path"):
        load_data(spec)


@pytest.mark.parametrize("spec", ["mnist", "imagefolder", "npz:a.npz", "folder:a"])
def test_a_needed_folder_that_is_not_given_is_asked_for_in_all_ways(spec, monkeypatch):
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=ALL_WAYS):
        load_data(spec)


def test_a_needed_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"absent is none: give {ALL_WAYS}"):
        load_data("mnist", data_dir=tmp_path / "absent")


def test_a_relative_path_starts_at_the_environment_variable_or_at_data_dir_which_wins(tmp_path, monkeypatch):
    write_archive(tmp_path / "set.npz")
    monkeypatch.setenv("SPIMM_DATA", str(tmp_path))
    assert len(load_data("npz:set.npz").train) == 2
    with pytest.raises(FileNotFoundError, match="elsewhere"):
        load_data("npz:set.npz", data_dir=tmp_path / "elsewhere")


def test_without_a_data_folder_a_relative_path_starts_in_the_working_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    write_archive(tmp_path / "set.npz")
    assert len(load_data("npz:set.npz").train) == 2


def test_an_absolute_path_needs_no_data_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("SPIMM_DATA", raising=False)
    write_archive(tmp_path / "set.npz")
    data = load_data(f"npz:{tmp_path / 'set.npz'}")
    assert data.name.startswith("npz:")


@pytest.mark.parametrize("settings", [{"train_fraction": 0.5}, {"split_seed": 1}])
def test_a_set_with_its_own_split_refuses_another(tmp_path, settings):
    with pytest.raises(ValueError, match="mnist has its own split"):
        load_data("mnist", data_dir=tmp_path, **settings)


def test_an_image_size_below_one_pixel_is_refused():
    with pytest.raises(ValueError, match="image_size must be at least 1"):
        load_data("digits", image_size=0)


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        ("mnist", {"representation": "voxel"}, "'voxel'} is for the framing of events, of which mnist"),
        ("har-dvs", {"frames": 8, "bins": "count"}, "'count'} is for the framing of events, of which har-dvs"),
        ("n-mnist", {"frames": 4, "image_size": 32}, "n-mnist keeps the size of its sensor, got image_size=32"),
        ("n-mnist", {"frames": 4, "split_seed": 1}, "n-mnist has its own split"),
        ("n-mnist", {"frames": 4, "sensor": (2, 2)}, r"sensor is for recordings:PATH, got \(2, 2\) for n-mnist"),
    ],
)
def test_settings_of_other_kinds_of_data_are_refused(tmp_path, spec, settings, message):
    with pytest.raises(ValueError, match=message):
        load_data(spec, data_dir=tmp_path, **settings)
