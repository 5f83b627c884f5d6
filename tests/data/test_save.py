import numpy as np
import pytest
import torch

from spimm.data import load_data, read_packed, read_recording, save_recording, save_recordings, simulate_events
from spimm.data.frames import Framing
from spimm.data.recording import Recording


def recording(seed: int = 0, side: int = 6) -> Recording:
    frames = np.random.default_rng(seed).random((8, side, side + 1))
    return simulate_events(frames, np.arange(8) * 1000)


def same(first: Recording, second: Recording) -> bool:
    sizes = (first.height, first.width) == (second.height, second.width)
    return sizes and all(np.array_equal(getattr(first, name), getattr(second, name)) for name in "xytp")


def test_a_recording_is_read_as_it_was_saved(tmp_path):
    path = save_recording(tmp_path / "one.npz", recording())
    assert same(read_recording(path), recording())
    assert [file.name for file in tmp_path.iterdir()] == ["one.npz"]


def test_a_saved_set_is_read_as_recordings_and_as_frames(tmp_path):
    train, test = [recording(seed) for seed in range(4)], [recording(9)]
    names = ("left", "right")
    path = save_recordings(tmp_path / "set.npz", train=(train, [0, 1, 1, 0]), test=(test, [1]), class_names=names)
    read, labels = read_packed(path, part="train")
    assert all(map(same, read, train)) and labels is not None and labels.tolist() == [0, 1, 1, 0]
    data = load_data(f"events:{path}", data_dir=tmp_path, frames=3)
    assert (data.class_names, data.image_size) == (names, (6, 7))
    assert isinstance(data.test.images, torch.Tensor)
    assert np.array_equal(data.test.images[0].numpy(), Framing(3)(test[0]))


def test_what_does_not_make_a_set_is_refused(tmp_path):
    one, other = ([recording()], [0]), ([recording(side=4)], [0])
    path = tmp_path / "set.npz"
    with pytest.raises(ValueError, match=r"one sensor size, got \[\(4, 5\), \(6, 7\)\]"):
        save_recordings(path, train=one, test=other)
    with pytest.raises(ValueError, match=r"test needs an integer label for each of 1 recordings, got int64 \[2\]"):
        save_recordings(path, train=one, test=(one[0], [0, 1]))
    with pytest.raises(ValueError, match="got none in recording 1 of train"):
        save_recordings(path, train=([recording(), recording().take(slice(0))], [0, 1]), test=one)
    with pytest.raises(ValueError, match=r"must end in \.npz, got .*set\.bin"):
        save_recording(tmp_path / "set.bin", recording())
    assert not list(tmp_path.iterdir())
