"""Images held out from training to choose the best epoch, and folders of classes that come without a split."""

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from spimm.data import load_data
from spimm.data.folder import tell_of_split
from spimm.data.held_out import held_out_split


@pytest.mark.parametrize("share", [0.05, 0.1, 0.5])
def test_a_share_of_every_class_is_held_out_the_same_by_seed(share: float) -> None:
    labels = np.random.default_rng(0).integers(0, 7, 501)
    kept, held = held_out_split(labels, share, 3)
    assert np.array_equal(np.sort(np.concatenate([kept, held])), np.arange(501))
    assert np.abs(np.bincount(labels[held]) - share * np.bincount(labels)).max() <= 1
    assert np.array_equal(held, held_out_split(labels, share, 3)[1])
    assert not np.array_equal(held, held_out_split(labels, share, 4)[1])


def test_a_class_keeps_an_image_to_train_on() -> None:
    labels = np.array([0] * 50 + [1])
    for seed in range(5):
        kept, held = held_out_split(labels, 0.6, seed)
        assert set(labels[kept]) == {0, 1}
        assert len(kept) + len(held) == 51


def test_a_share_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"val_share=0.1 of 2 images holds out none"):
        held_out_split(np.array([0, 1]), 0.1)
    for share in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match=r"val_share must lie in \[0, 1\), got"):
            load_data("digits", val_share=share)


def test_any_set_holds_out_training_images_and_keeps_its_test_images() -> None:
    whole, data = load_data("digits"), load_data("digits", val_share=0.1)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (1293, 144, 360)
    assert torch.equal(data.test.images, whole.test.images)
    both = torch.cat([data.train.images, data.val.images]).flatten(1)
    assert torch.equal(torch.unique(both, dim=0), torch.unique(whole.train.images.flatten(1), dim=0))
    assert "144 of its training images held out, stratified, val_share=0.1, split_seed=0" in data.note
    assert not torch.equal(data.val.labels, load_data("digits", val_share=0.1, split_seed=5).val.labels)


def test_a_fold_holds_out_of_its_own_training_images(image_folder) -> None:
    data = load_data("digits", fold=1, val_share=0.2)
    assert (len(data.test), len(data.val), len(data.train)) == (360, 288, 1149)
    whole = load_data(f"folder:{image_folder(parts=('.',), count=10)}", image_size=8, fold=0, val_share=0.25)
    assert (len(whole.train), len(whole.val), len(whole.test)) == (12, 4, 4)


@pytest.mark.parametrize(("share", "held"), [(0.0, 2), (0.3, 6)])
def test_a_folder_of_classes_alone_is_split_by_class_which_is_said_once(image_folder, caplog, share, held) -> None:
    root = image_folder(parts=(".",), count=10)
    tell_of_split.cache_clear()
    with caplog.at_level(logging.WARNING):
        data, again = (load_data(f"folder:{root}", image_size=8, val_share=share) for _ in range(2))
    assert data.class_names == ("cat", "dog")
    assert (len(data.train), len(data.test), data.val) == (20 - held, held, None)
    assert torch.bincount(data.test.labels).tolist() == [held // 2, held // 2]
    assert not set(data.train.images.paths) & set(data.test.images.paths)
    assert data.test.images.paths == again.test.images.paths
    how = f"stratified, val_share={share or 0.1:g}, split_seed=0"
    assert data.note == f"images of images/, {held} of them held out as test images, {how}"
    said = f"{root} has no train/ and val/: {held} of its 20 files are held out as test images, {how}"
    assert [record.getMessage() for record in caplog.records] == [said]
    other = load_data(f"folder:{root}", image_size=8, val_share=share, split_seed=1)
    assert other.test.images.paths != data.test.images.paths


def test_imagefolder_and_recordings_are_split_alike(image_folder, tmp_path) -> None:
    from spimm.data import Recording, save_recording

    root = image_folder(parts=(".",), count=5)
    assert len(load_data("imagefolder", data_dir=root, image_size=8).test) == 1
    flat = tmp_path / "recordings"
    for name in ("left", "right"):
        for index in range(5):
            (flat / name).mkdir(parents=True, exist_ok=True)
            events = np.arange(4)
            save_recording(flat / name / f"{index}.npz", Recording(events, events, events, events % 2, 4, 4))
    settings = {"frames": 2, "cache_dir": tmp_path / "cache"}
    data = load_data(f"recordings:{flat}", val_share=0.2, **settings)
    assert (data.class_names, len(data.train), len(data.test), data.val) == (("left", "right"), 8, 2, None)
    held = load_data(f"recordings:{flat}", val_share=0.2, fold=0, folds=5, **settings)
    assert (len(held.train), len(held.val), len(held.test)) == (6, 2, 2)


def test_a_folder_with_train_val_and_test_uses_each_for_what_it_is_named(image_folder) -> None:
    root = image_folder(parts=("train", "val", "test"))
    Image.new("RGB", (9, 9)).save(root / "test" / "cat" / "9.png")
    data = load_data(f"folder:{root}", image_size=8)
    assert data.val is not None
    assert (len(data.train), len(data.val), len(data.test)) == (6, 6, 7)
    with pytest.raises(ValueError, match=r"has 6 images in a val part of its own, got val_share=0\.1"):
        load_data(f"folder:{root}", image_size=8, val_share=0.1)
    assert len(load_data(f"folder:{root}", image_size=8, fold=0).train) == 15  # of all 19


def test_one_part_alone_is_refused_with_what_would_split_it(image_folder) -> None:
    root = image_folder(parts=("train",))
    with pytest.raises(FileNotFoundError, match=rf"train/ and val/ .*; {root / 'train'} as the data set is split"):
        load_data(f"folder:{root}")
    assert len(load_data(f"folder:{root / 'train'}", image_size=8, val_share=0.34).train) == 3
