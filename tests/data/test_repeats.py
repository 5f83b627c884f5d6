from collections import Counter

import pytest
import torch

from spimm.data import Augment, ImageSplit, Loader

NORM = {"mean": (0.0,), "std": (1 / 255,)}
AUGMENT = Augment(pad=2)


def split_of(count: int) -> ImageSplit:
    """Random images whose label is their index."""
    images = torch.randint(256, (count, 9, 9, 1), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSplit(images, torch.arange(count))


def loader(batch_size: int = 6, **settings) -> Loader:
    return Loader(split_of(24), batch_size, **({"augment": AUGMENT, "shuffle": True, "repeats": 3} | NORM | settings))


def test_every_image_of_a_batch_comes_as_often_as_asked_and_no_other_batch_has_it():
    batches = [labels.tolist() for _, labels in loader().iterate(2)]
    assert [len(batch) for batch in batches] == [6] * 4
    assert all(set(Counter(batch).values()) == {3} for batch in batches)
    assert len({label for batch in batches for label in batch}) == 8


def test_epochs_repeat_different_images():
    seen = [{label for _, labels in loader().iterate(epoch) for label in labels.tolist()} for epoch in range(8)]
    assert len(set.union(*seen)) > 20


def test_copies_are_augmented_each_on_its_own():
    images, labels = next(loader(batch_size=24, augment=Augment(pad=4)).iterate(0))
    copies = [images[labels == label] for label in labels.unique()]
    assert sum(len(each.unique(dim=0)) for each in copies) > 20


def test_ranks_have_different_copies_of_the_same_images():
    ranks = [[labels.tolist() for _, labels in loader(2, rank=rank, world_size=3)] for rank in range(3)]
    for parts in zip(*ranks, strict=True):
        assert all(len(set(part)) == 2 for part in parts)
        assert len({frozenset(part) for part in parts}) == 1
    together = [[label for part in parts for label in part] for parts in zip(*ranks, strict=True)]
    assert together == [labels.tolist() for _, labels in loader()]


def test_repeats_that_do_not_divide_the_batch_still_fill_it():
    batches = [labels.tolist() for _, labels in loader(batch_size=8, repeats=3)]
    assert [len(batch) for batch in batches] == [8] * 3
    assert Counter(label for batch in batches for label in batch).most_common()[-1][1] == 3


def test_one_repeat_changes_nothing():
    once, plain = loader(repeats=1), Loader(split_of(24), 6, augment=AUGMENT, shuffle=True, **NORM)
    for (images, labels), (others, same) in zip(once, plain, strict=True):
        assert torch.equal(images, others) and torch.equal(labels, same)


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"shuffle": False}, {"augment": None}])
def test_repeats_are_for_training(settings):
    with pytest.raises(ValueError, match=r"repeats (must be at least 1|is for training and wants shuffle)"):
        loader(**settings)
