import numpy as np
import pytest
import torch

from spimm.data import ImageData, ImageSplit


def split_of(count: int = 6, size: int = 4, channels: int = 3) -> ImageSplit:
    images = torch.arange(count * size * size * channels).remainder(256).to(torch.uint8)
    return ImageSplit(images.view(count, size, size, channels), torch.arange(count))


def test_an_item_is_a_channel_first_image_and_its_label():
    split = split_of()
    image, label = split[2]
    assert torch.equal(image, split.images[2].permute(2, 0, 1))
    assert label == 2
    assert torch.equal(split[-1][0], split[5][0])


def test_a_sequence_is_an_item_of_channel_first_frames():
    images = np.random.default_rng(0).integers(0, 256, (3, 5, 4, 6, 2), dtype=np.uint8)
    split = ImageSplit.from_arrays(images, np.arange(3))
    assert (split.frames, split.in_chans, split.size) == (6, 2, (5, 4))
    frames, label = split.subset([2, 0])[1]
    assert np.array_equal(frames.numpy(), images[0].transpose(2, 3, 0, 1))
    assert label == 0
    assert split_of().frames is None


def test_iterating_over_a_split_ends():
    assert [label for _, label in split_of()] == [0, 1, 2, 3, 4, 5]


def test_arrays_without_a_channel_axis_get_one():
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    split = ImageSplit.from_arrays(images, np.arange(5, dtype=np.uint8))
    assert (split.in_chans, split.size, len(split)) == (1, (4, 3), 5)
    assert torch.equal(split.images[..., 0], torch.from_numpy(images))


def test_read_only_and_reversed_arrays_are_taken():
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4)[::-1]
    images.flags.writeable = False
    split = ImageSplit.from_arrays(images, np.arange(5))
    assert split.images[0, 0, 0, 0] == 64


def test_read_gives_channels_last_memory_without_touching_the_split():
    split = split_of()
    images = split.read(torch.tensor([4, 1]))
    assert images.shape == (2, 3, 4, 4)
    assert images.is_contiguous(memory_format=torch.channels_last)
    images.zero_()
    assert split.images[4].any()


def test_a_subset_keeps_order_and_repeats():
    subset = split_of().subset([5, 0, 5])
    assert subset.labels.tolist() == [5, 0, 5]
    assert torch.equal(subset.images, split_of().images[[5, 0, 5]])


@pytest.mark.parametrize("indices", [[], [6], [-1], [0.5], [True, False], [[0, 1]]])
def test_a_subset_refuses_what_is_no_list_of_indices(indices):
    with pytest.raises(ValueError, match="indices must"):
        split_of().subset(indices)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 4, 4), np.float32), np.zeros(2, int), r"images must be uint8 .* got float32 \[2, 4, 4\]"),
        (np.zeros((2, 16), np.uint8), np.zeros(2, int), r"images must be uint8 .* got uint8 \[2, 16\]"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2), "labels must be integers, got float64"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros((2, 1), int), r"labels must be int64 \[N\]"),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(3, int), "agree in length, got 2 and 3"),
        (np.zeros((0, 4, 4), np.uint8), np.zeros(0, int), "at least one image"),
        (np.zeros((2, 0, 4), np.uint8), np.zeros(2, int), "at least one pixel"),
        (np.zeros((2, 4, 4), np.uint8), np.array([0, -3]), "negative, got -3 at index 1"),
    ],
)
def test_bad_arrays_are_refused_with_what_was_seen(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImageSplit.from_arrays(images, labels)


@pytest.mark.parametrize("images", [torch.zeros(2, 4, 4, 3), torch.zeros(2, 4, 4, dtype=torch.uint8)])
def test_a_split_takes_only_uint8_images_with_channels(images):
    with pytest.raises(ValueError, match=r"images must be uint8 \[N, H, W, C\]"):
        ImageSplit(images, torch.zeros(2, dtype=torch.int64))


def sequences_of(frames: int) -> ImageSplit:
    return ImageSplit(torch.zeros(2, 4, 4, frames, 3, dtype=torch.uint8), torch.arange(2))


def data_of(train: ImageSplit, test: ImageSplit, **changes) -> ImageData:
    settings = dict(class_names=tuple("abcdef"), mean=(0.5,) * 3, std=(0.5,) * 3, note="made for a test")
    return ImageData("toy", train, test, **(settings | changes))


def test_a_data_set_knows_its_shape_and_number_of_classes():
    data = data_of(split_of(), split_of(count=3))
    assert (data.in_chans, data.image_size, data.num_classes, data.frames) == (3, (4, 4), 6, None)
    assert data_of(sequences_of(5), sequences_of(5)).frames == 5


@pytest.mark.parametrize(
    ("test", "changes", "message"),
    [
        (split_of(size=5), {}, "train and test images must have one shape"),
        (split_of(channels=1), {}, "train and test images must have one shape"),
        (sequences_of(5), {}, "train and test sequences must have the same number of frames, got None and 5"),
        (split_of(), {"mean": (0.5,)}, "need 3 values"),
        (split_of(), {"std": (0.5, 0.0, 0.5)}, "std must be positive"),
        (split_of(count=7), {}, r"test labels must lie in \[0, 6\) for 6 classes, got 6"),
    ],
)
def test_a_data_set_that_does_not_fit_together_is_refused(test, changes, message):
    with pytest.raises(ValueError, match=message):
        data_of(split_of(), test, **changes)
