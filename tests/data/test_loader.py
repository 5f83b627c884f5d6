import os

import pytest
import torch

from spimm.data import Augment, ImageSplit, Loader, Mix, load_data

NORM = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
AUGMENT = Augment(pad=2, flip=True, erase=0.5, rotate=15)


def split_of(count: int) -> ImageSplit:
    """Random images whose label is their index."""
    images = torch.randint(256, (count, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSplit(images, torch.arange(count))


def sequences_of(count: int, frames: int = 3) -> ImageSplit:
    """Random sequences of two channels whose label is their index."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 6, 5, frames, 2), dtype=torch.uint8, generator=generator)
    return ImageSplit(images, torch.arange(count))


def equal(first, second) -> bool:
    return all(
        torch.equal(images, other) and torch.equal(labels, others)
        for (images, labels), (other, others) in zip(first, second, strict=True)
    )


def labels_of(loader: Loader, epoch: int = 0) -> list[int]:
    return torch.cat([labels for _, labels in loader.iterate(epoch)]).tolist()


def test_batches_are_normalised_floats_in_channels_last_memory_with_their_labels():
    split = split_of(10)
    loader = Loader(split, 4, **NORM)
    batches = list(loader)
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert len(loader) == 3
    mean, std = (torch.tensor(NORM[key])[:, None, None] for key in ("mean", "std"))
    for images, labels in batches:
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        expected = (split.images[labels].permute(0, 3, 1, 2) / 255 - mean) / std
        torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


def test_batches_of_sequences_are_normalised_frames_in_the_memory_order_of_time_first_steps():
    split, mean, std = sequences_of(10), (0.5, 0.4), (0.2, 0.3)
    images, labels = list(Loader(split, 4, mean=mean, std=std))[1]
    assert (images.shape, labels.tolist()) == ((4, 3, 2, 6, 5), [4, 5, 6, 7])
    assert images.permute(1, 0, 3, 4, 2).is_contiguous()
    pixels = split.images[labels].permute(0, 3, 4, 1, 2) / 255
    expected = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(images, expected, atol=1e-5, rtol=1e-5)


def test_counts_stay_the_integers_they_are():
    split = sequences_of(10)
    images, labels = next(iter(Loader(split, 10, mean=(0.0, 0.0), std=(1 / 255, 1 / 255))))
    assert torch.equal(images, split.images[labels].permute(0, 3, 4, 1, 2).float())


@pytest.mark.parametrize("augment", [Augment(pad=2), Augment(flip=True), Augment(rotate=30)])
def test_all_frames_of_a_sequence_are_augmented_alike_and_each_sequence_anew(augment):
    frame = torch.randint(1, 256, (1, 6, 5, 1, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = ImageSplit(frame.repeat(16, 1, 1, 3, 1), torch.arange(16))
    loader = Loader(split, 16, mean=(0.0, 0.0), std=(1 / 255, 1 / 255), augment=augment)
    images, _ = next(iter(loader))
    assert (images == images[:, :1]).all()
    assert len(images[:, 0].unique(dim=0)) > 1


def test_a_single_event_is_not_lost_in_a_turn():
    counts = torch.zeros(8, 9, 9, 1, 2, dtype=torch.uint8)
    counts[:, 3, 5] = 1
    split = ImageSplit(counts, torch.arange(8))
    augment = Augment(rotate=30)
    images, _ = next(iter(Loader(split, 8, mean=(0.0, 0.0), std=(1 / 255, 1 / 255), augment=augment)))
    assert (images.sum((1, 3, 4)) > 0.5).all()


def test_shuffled_augmented_sequences_resume_in_mid_epoch():
    settings = dict(mean=(0.0, 0.0), std=(1.0, 1.0), augment=Augment(pad=1, flip=True), shuffle=True, seed=3)
    whole = list(Loader(sequences_of(23), 6, **settings).iterate(2))
    assert equal(Loader(sequences_of(23), 6, **settings).iterate(2, 2), whole[2:])
    assert not equal(Loader(sequences_of(23), 6, **settings).iterate(1), whole)


@pytest.mark.parametrize("mix", [Mix(23, mixup=1.0), Mix(23, cutmix=1.0), Mix(23, mixup=1.0, cutmix=1.0)], ids=str)
def test_mixed_batches_resume_in_mid_epoch_to_the_last_odd_one(mix):
    settings = dict(**NORM, augment=AUGMENT, mix=mix, shuffle=True, seed=3)
    whole = list(Loader(split_of(23), 6, **settings).iterate(2))
    assert [labels.shape for _, labels in whole] == [(6, 23)] * 3 + [(5, 23)]
    assert equal(Loader(split_of(23), 6, **settings).iterate(2, 2), whole[2:])
    assert not torch.equal(whole[0][1], next(Loader(split_of(23), 6, **settings).iterate(1))[1])


def test_batches_are_mixed_after_augmentation_and_only_in_their_epochs():
    settings = dict(**NORM, augment=AUGMENT, shuffle=True)
    mixed, plain = (
        Loader(split_of(24), 6, **settings, mix=Mix(24, mixup=1.0, epochs=1)),
        Loader(split_of(24), 6, **settings),
    )
    assert equal(mixed.iterate(1), plain.iterate(1))
    for (blend, targets), (images, labels) in zip(mixed.iterate(0), plain.iterate(0), strict=True):
        share = targets[range(6), labels][:, None, None, None]
        torch.testing.assert_close(blend, share * images + (1 - share) * images.roll(1, 0))
        assert blend.is_contiguous(memory_format=torch.channels_last)


def test_sequences_are_mixed_frame_by_frame():
    settings = dict(mean=(0.5, 0.4), std=(0.2, 0.3), augment=Augment(pad=1))
    (blend, targets), (images, labels) = (
        next(iter(Loader(sequences_of(10), 5, **settings, **mixing))) for mixing in ({"mix": Mix(10, mixup=1.0)}, {})
    )
    share = targets[range(5), labels][:, None, None, None, None]
    torch.testing.assert_close(blend, share * images + (1 - share) * images.roll(1, 0))
    assert blend.permute(1, 0, 3, 4, 2).is_contiguous()


def test_auto_augment_changes_the_images_before_they_are_normalised():
    loader = Loader(split_of(40), 40, mean=(0.0,) * 3, std=(1 / 255,) * 3, augment=Augment(auto_augment="imagenet"))
    (images, _), (again, _) = next(iter(loader)), next(iter(loader))
    assert torch.equal(images, again)
    torch.testing.assert_close(images, images.round(), atol=1e-3, rtol=0)
    same = (images.round() == split_of(40).images.permute(0, 3, 1, 2)).flatten(1).all(1)
    assert 0 < int(same.sum()) < 20


def test_auto_augment_of_what_is_no_image_is_refused():
    settings = dict(mean=(0.0, 0.0), std=(1.0, 1.0), augment=Augment(auto_augment="imagenet"))
    with pytest.raises(ValueError, match=r"auto_augment is for images .* got 2 channels, 3 frames"):
        Loader(sequences_of(10), 4, **settings)
    two = ImageSplit(torch.zeros(4, 3, 3, 2, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(ValueError, match=r"auto_augment is for images .* got 2 channels"):
        Loader(two, 4, **settings)


def test_a_cutout_is_zero_behind_the_normalisation_and_a_fill_is_in_front_of_it():
    black = ImageSplit(torch.zeros(40, 6, 5, 3, dtype=torch.uint8), torch.arange(40))
    images, _ = next(iter(Loader(black, 40, **NORM, augment=Augment(cutout=3))))
    level = -torch.tensor(NORM["mean"]) / torch.tensor(NORM["std"])
    expected = level[:, None, None].expand_as(images).where(images != 0, torch.zeros(()))
    torch.testing.assert_close(images, expected)
    assert (images == 0).all(1).flatten(1).any(1).all()
    images, _ = next(iter(Loader(black, 40, **NORM, augment=Augment(pad=2, fill=128))))
    grey = level + 128 / 255 / torch.tensor(NORM["std"])
    shifted = torch.stack([level, grey]).isclose(images.permute(0, 2, 3, 1)[..., None, :], atol=1e-5).all(-1)
    assert (shifted.sum(-1) == 1).all() and shifted[..., 1].any() and shifted[..., 0].any()


def test_noise_and_grey_in_place_of_events_are_refused():
    settings = {"mean": (0.0, 0.0), "std": (1.0, 1.0)}
    with pytest.raises(ValueError, match=r"fill is for images, got 128 for sequences"):
        Loader(sequences_of(10), 4, **settings, augment=Augment(pad=1, fill=128))
    with pytest.raises(ValueError, match=r"erase is for images, got 0\.5 for sequences"):
        Loader(sequences_of(10), 4, **settings, augment=Augment(erase=0.5))


def test_without_shuffling_the_order_is_that_of_the_split():
    assert labels_of(Loader(split_of(10), 4, **NORM), epoch=3) == list(range(10))


def test_an_epoch_is_a_function_of_seed_and_epoch_whatever_ran_before():
    split = split_of(20)
    first = Loader(split, 6, **NORM, augment=AUGMENT, shuffle=True, seed=7)
    for _ in first.iterate(0):
        torch.rand(3)
    again = Loader(split, 6, **NORM, augment=AUGMENT, shuffle=True, seed=7)
    assert equal(first.iterate(1), again.iterate(1))


def test_shuffled_epochs_are_different_permutations_of_the_whole_split():
    loader = Loader(split_of(50), 8, **NORM, shuffle=True)
    orders = [labels_of(loader, epoch) for epoch in range(3)]
    orders.append(labels_of(Loader(split_of(50), 8, **NORM, shuffle=True, seed=1)))
    assert len({tuple(order) for order in orders}) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_augmentation_is_drawn_anew_for_each_epoch_and_each_batch():
    images = torch.randint(256, (1, 6, 5, 3), dtype=torch.uint8).expand(8, -1, -1, -1).contiguous()
    loader = Loader(ImageSplit(images, torch.zeros(8, dtype=torch.int64)), 4, **NORM, augment=AUGMENT)
    batches = [images for epoch in range(2) for images, _ in loader.iterate(epoch)]
    assert len(torch.unique(torch.stack(batches), dim=0)) == 4


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("start_batch", [0, 1, 3, 4])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_resuming_in_mid_epoch_gives_exactly_the_batches_that_were_left(start_batch, num_workers):
    settings = dict(**NORM, augment=AUGMENT, shuffle=True, seed=3)
    whole = list(Loader(split_of(23), 6, **settings).iterate(2))
    rest = list(Loader(split_of(23), 6, **settings, num_workers=num_workers).iterate(2, start_batch))
    assert len(rest) == 4 - start_batch
    assert equal(rest, whole[start_batch:])


def test_resuming_reads_no_earlier_batch(monkeypatch):
    loader = Loader(split_of(20), 5, **NORM)
    read, asked = ImageSplit.read, []
    monkeypatch.setattr(
        ImageSplit, "read", lambda self, indices, **settings: asked.append(indices) or read(self, indices, **settings)
    )
    assert len(list(loader.iterate(0, 3))) == 1
    assert [indices.tolist() for indices in asked] == [[15, 16, 17, 18, 19]]


def test_the_global_generator_is_neither_used_nor_moved():
    before = torch.get_rng_state()
    list(Loader(split_of(20), 6, **NORM, augment=AUGMENT, shuffle=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("count", [12, 13, 16, 17, 23, 24])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_cover_the_split_without_overlap_in_the_same_number_of_batches(count, world_size):
    split = split_of(count)
    shards = [
        list(Loader(split, 4, **NORM, shuffle=True, rank=rank, world_size=world_size)) for rank in range(world_size)
    ]
    lengths = [[len(labels) for _, labels in shard] for shard in shards]
    assert len({len(sizes) for sizes in lengths}) == 1
    assert all(1 <= size <= 4 for sizes in lengths for size in sizes)
    seen = sorted(label for shard in shards for _, labels in shard for label in labels.tolist())
    assert seen == list(range(count))


def test_with_drop_last_every_batch_is_full_on_every_rank_and_no_image_comes_twice():
    shards = [
        Loader(split_of(23), 4, **NORM, shuffle=True, drop_last=True, rank=rank, world_size=2) for rank in range(2)
    ]
    labels = [[len(labels) for _, labels in shard] for shard in shards]
    assert labels == [[4, 4], [4, 4]]
    assert [len(shard) for shard in shards] == [2, 2]
    assert len(set(labels_of(shards[0]) + labels_of(shards[1]))) == 16


def test_two_ranks_see_together_what_one_sees_with_twice_the_batch_size():
    split = split_of(24)
    alone = [labels.tolist() for _, labels in Loader(split, 8, **NORM, shuffle=True)]
    pair = [Loader(split, 4, **NORM, shuffle=True, rank=rank, world_size=2) for rank in range(2)]
    together = [first.tolist() + second.tolist() for (_, first), (_, second) in zip(pair[0], pair[1], strict=True)]
    assert together == alone


def test_ranks_draw_different_augmentations():
    images = torch.randint(256, (1, 6, 5, 3), dtype=torch.uint8).expand(8, -1, -1, -1).contiguous()
    split = ImageSplit(images, torch.zeros(8, dtype=torch.int64))
    first, second = (
        next(iter(Loader(split, 4, **NORM, augment=AUGMENT, rank=rank, world_size=2)))[0] for rank in range(2)
    )
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"num_workers": -1}, "num_workers must be at least 0"),
        ({"world_size": 0}, "world_size must be at least 1"),
        ({"parts": 3}, "parts must divide the 4 images of a batch on all ranks, got 3"),
        ({"rank": 2, "world_size": 2}, r"rank must lie in \[0, 2\), got 2"),
        ({"mean": (0.5,)}, "need 3 values"),
        ({"augment": Augment(crop_scale=(0.5, 1.0))}, "crop_scale is for image files"),
        ({"mix": Mix(10, mixup=0.5)}, "mix is for training and wants an augment"),
        ({"batch_size": 11, "drop_last": True}, "every rank must have an image in every batch"),
        ({"world_size": 11}, "every rank must have an image in every batch"),
        ({"batch_size": 1, "world_size": 3}, "every rank must have an image in every batch"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_the_first_batch(settings, message):
    with pytest.raises(ValueError, match=message):
        Loader(split_of(10), **({"batch_size": 4} | NORM | settings))


def test_an_epoch_or_batch_that_does_not_exist_is_refused_at_once():
    loader = Loader(split_of(10), 4, **NORM)
    with pytest.raises(ValueError, match="epoch must be at least 0, got -1"):
        loader.iterate(-1)
    with pytest.raises(ValueError, match=r"start_batch must lie in \[0, 3\], got 4"):
        loader.iterate(0, 4)


@pytest.mark.skipif("SPIMM_DATA" not in os.environ, reason="SPIMM_DATA names no folder of real data")
def test_real_mnist_resumes_exactly():
    data = load_data("mnist")
    loader = Loader(data.train, 512, mean=data.mean, std=data.std, augment=Augment(pad=2), shuffle=True, drop_last=True)
    assert equal(list(loader.iterate(1))[-3:], loader.iterate(1, len(loader) - 3))
