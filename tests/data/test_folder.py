import os

import numpy as np
import pytest
import torch
from PIL import Image

from spimm.data import Augment, Loader, load_data


def test_a_folder_gives_its_classes_and_labels(image_folder):
    data = load_data(f"folder:{image_folder()}", image_size=8)
    assert (data.class_names, len(data.train), len(data.test)) == (("cat", "dog"), 6, 6)
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert (data.in_chans, data.image_size) == (3, (8, 8))
    assert data.mean == (0.485, 0.456, 0.406)


def test_imagefolder_is_the_data_folder_itself_and_the_default_size_is_224(image_folder):
    data = load_data("imagefolder", data_dir=image_folder(parts=("train", "test"), count=1))
    image, label = data.test[1]
    assert image.shape == (3, 224, 224)
    assert image.dtype == torch.uint8
    assert label == 1


def test_evaluation_resizes_the_shorter_side_and_keeps_the_centre(image_folder):
    from torchvision.transforms import v2

    root = image_folder()
    split = load_data(f"folder:{root}", image_size=7).train
    image = v2.CenterCrop(7)(v2.Resize(8)(Image.open(root / "train" / "cat" / "0.png")))
    assert np.array_equal(split[0][0].permute(1, 2, 0).numpy(), np.asarray(image))


def test_a_subset_of_a_folder_reads_the_same_files(image_folder):
    split = load_data(f"folder:{image_folder()}", image_size=8).train
    subset = split.subset([4, 1])
    assert subset.labels.tolist() == [1, 0]
    assert torch.equal(subset[0][0], split[4][0])


def test_random_crops_differ_by_image_repeat_by_seed_and_leave_the_global_generator_alone(image_folder):
    split = load_data(f"folder:{image_folder()}", image_size=8).train
    indices = torch.zeros(4, dtype=torch.int64)
    before = torch.get_rng_state()
    first, again, other = (
        split.read(indices, crop_scale=(0.2, 0.6), generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(torch.unique(first, dim=0)) == 4
    assert first.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_do_not_depend_on_the_number_of_workers(image_folder):
    data = load_data(f"folder:{image_folder()}", image_size=16)
    augment = Augment(flip=True, pad=1, erase=0.5, rotate=10, shear=10, auto_augment="imagenet")

    def batches(num_workers: int, start_batch: int):
        loader = Loader(
            data.train, 2, mean=data.mean, std=data.std, augment=augment, shuffle=True, num_workers=num_workers
        )
        return list(loader.iterate(1, start_batch))

    before = torch.get_rng_state()
    alone = batches(0, 0)
    assert len(alone) == 3
    for num_workers, start_batch in ((1, 0), (2, 1)):
        together = batches(num_workers, start_batch)
        assert len(together) == 3 - start_batch
        for (images, labels), (expected, wanted) in zip(together, alone[start_batch:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, wanted)
            assert images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_more_workers_than_cores_are_no_cause_for_a_warning(image_folder, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    data = load_data(f"folder:{image_folder()}", image_size=8)
    assert len(list(Loader(data.test, 6, mean=data.mean, std=data.std, num_workers=2))) == 1


def test_an_unreadable_image_is_named(image_folder):
    root = image_folder()
    (root / "train" / "dog" / "1.png").write_text("not an image")
    split = load_data(f"folder:{root}", image_size=8).train
    with pytest.raises(ValueError, match=r"dog.1\.png cannot be decoded"):
        split.read(torch.arange(6))


@pytest.mark.parametrize("parts", [("train",), ("val",)])
def test_a_folder_without_both_parts_is_refused(image_folder, parts):
    with pytest.raises(FileNotFoundError, match=r"must hold the folders train/ and val/ \(or test/\)"):
        load_data(f"folder:{image_folder(parts=parts)}")


def test_parts_with_different_classes_are_refused(image_folder):
    root = image_folder()
    (root / "val" / "dog").rename(root / "val" / "cow")
    with pytest.raises(ValueError, match=r"same classes, only one of them has \['cow', 'dog'\]"):
        load_data(f"folder:{root}")


def test_an_impossible_size_is_refused(image_folder):
    with pytest.raises(ValueError, match="size must be at least 1"):
        load_data(f"folder:{image_folder()}", image_size=0)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("fraction", "side"), [(1.0, 7), (0.5, 14)])
def test_evaluation_keeps_the_fraction_asked_for_by_the_interpolation_asked_for(
    image_folder, interpolation, fraction, side
):
    from torchvision.transforms import v2

    root = image_folder()
    reading = {"interpolation": interpolation, "crop_fraction": fraction}
    split = load_data(f"folder:{root}", image_size=7, **reading).train
    mode = v2.InterpolationMode(interpolation)
    resized = v2.Resize(side, interpolation=mode)(Image.open(root / "train" / "cat" / "0.png"))
    assert np.array_equal(split[0][0].permute(1, 2, 0).numpy(), np.asarray(v2.CenterCrop(7)(resized)))
    assert torch.equal(split.subset([0])[0][0], split[0][0])


def test_random_crops_are_resized_by_the_interpolation_asked_for(image_folder):
    root = image_folder()
    splits = [load_data(f"folder:{root}", image_size=8, interpolation=kind).train for kind in ("bilinear", "bicubic")]
    crops = [
        split.read(torch.arange(6), crop_scale=(0.2, 0.6), generator=torch.Generator().manual_seed(0)).float()
        for split in splits
    ]
    assert not torch.equal(*crops)
    assert (crops[0] - crops[1]).abs().mean() < 20  # of the same places


@pytest.mark.parametrize(
    ("reading", "message"),
    [
        ({"interpolation": "nearest"}, "interpolation must be bilinear or bicubic, got 'nearest'"),
        ({"crop_fraction": 0.0}, r"crop_fraction must lie in \(0, 1\], got 0.0"),
        ({"crop_fraction": 1.1}, r"crop_fraction must lie in \(0, 1\], got 1.1"),
    ],
)
def test_other_ways_to_read_files_are_refused(image_folder, reading, message):
    with pytest.raises(ValueError, match=message):
        load_data(f"folder:{image_folder()}", **reading)


@pytest.mark.parametrize("reading", [{"interpolation": "bicubic"}, {"crop_fraction": 1.0}])
def test_images_in_memory_are_not_read_in_any_way(reading):
    with pytest.raises(
        ValueError, match=r"interpolation and crop_fraction are for folders of images, got .* for digits"
    ):
        load_data("digits", **reading)
