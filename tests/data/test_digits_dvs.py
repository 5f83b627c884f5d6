import zlib

import numpy as np
import pytest
import torch

from spimm.data import load_data
from spimm.data.digits_dvs import SIDE, digit_recordings


def test_there_is_a_recording_of_each_digit_with_events_all_along_its_three_saccades():
    recordings = digit_recordings()
    assert len(recordings) == 1797
    for one in recordings[::100]:
        assert (one.height, one.width) == (SIDE, SIDE)
        assert np.histogram(one.t, bins=3, range=(0, 300_000))[0].min() > 100


def test_the_recordings_are_the_same_everywhere():
    recordings = digit_recordings()
    assert sum(map(len, recordings)) == 3_841_708
    content = b"".join(getattr(recordings[0], name).astype("<i8").tobytes() for name in "xytp")
    assert zlib.crc32(content) == 1468445587


def test_a_digit_that_comes_back_has_as_many_events_up_as_down_at_every_pixel():
    for one in digit_recordings()[::50]:
        balance = np.zeros((SIDE, SIDE), dtype=int)
        np.add.at(balance, (one.y, one.x), 2 * one.p.astype(int) - 1)
        assert not balance.any()


def test_each_digit_goes_its_own_way_about_the_centre():
    middles = np.array([(one.y.mean(), one.x.mean()) for one in digit_recordings()]) - (SIDE - 1) / 2
    assert np.abs(middles.mean(0)).max() < 0.5
    first = [one.take(one.t < 50_000) for one in digit_recordings()]
    on, off = (np.array([one.x[one.p == p].mean() - one.x.mean() for one in first]) for p in (1, 0))
    assert 0.3 < (on > off).mean() < 0.7


def test_sequences_are_split_as_the_digits_are():
    data, images = load_data("digits-dvs", frames=4), load_data("digits")
    assert torch.equal(data.train.labels, images.train.labels) and torch.equal(data.test.labels, images.test.labels)
    assert (data.name, data.frames, data.in_chans, data.image_size) == ("digits-dvs", 4, 2, (SIDE, SIDE))
    assert data.class_names == images.class_names
    halves = load_data("digits-dvs", frames=2, train_fraction=0.5, split_seed=3)
    assert torch.equal(halves.test.labels, load_data("digits", train_fraction=0.5, split_seed=3).test.labels)
    counts = 0
    for split in (data.train, data.test):
        assert isinstance(split.images, torch.Tensor)
        counts += int(split.images.sum())
    assert counts == sum(map(len, digit_recordings()))


@pytest.mark.parametrize(("settings", "wanted"), [({}, "takes frames=T"), ({"frames": 4, "image_size": 8}, "keeps")])
def test_settings_that_do_not_fit_are_refused(settings, wanted):
    with pytest.raises(ValueError, match=f"digits-dvs {wanted}"):
        load_data("digits-dvs", **settings)
