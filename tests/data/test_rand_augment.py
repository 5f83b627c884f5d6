import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import rand_augment_transform

from spimm.data import Augment, ImageSplit, Loader, load_data
from spimm.data.rand_augment import rand_augment

POLICY = "rand-m9-mstd0.5-inc1"
POLICIES = [POLICY, "rand-m9-n1-mstd0.4-inc1", "rand-m7-mstd0.5-inc1", "rand", "rand-m5-n3-p0.7-mmax8-inc0-tweights"]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(batch: int, channels: int = 3) -> torch.Tensor:
    """Copies of one image of random pixels."""
    image = torch.randint(1, 256, (1, channels, 12, 10), dtype=torch.uint8, generator=seeded(1))
    return image.expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_draws_its_own_changes_which_repeat_by_generator(policy, channels):
    images = images_of(40, channels)
    before = images.clone()
    result = Augment(rand_augment=policy).move(images, seeded())
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert len(result.unique(dim=0)) > 10
    assert torch.equal(result, Augment(rand_augment=policy).move(images, seeded()))
    assert not torch.equal(result, Augment(rand_augment=policy).move(images, seeded(1)))
    assert torch.equal(images, before)


def test_an_image_is_what_timm_makes_of_it_with_the_seed_that_the_generator_gives():
    images, states = images_of(6), (random.getstate(), np.random.get_state()[1].tolist())
    result = rand_augment(images, seeded(), POLICY, fill=(10, 20, 30))
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states
    hparams = {"translate_const": 4, "img_mean": (10, 20, 30), "interpolation": Image.Resampling.BICUBIC}
    change = rand_augment_transform(POLICY, hparams)
    for seed, image, changed in zip(torch.randint(2**31, (6,), generator=seeded()), images, result, strict=True):
        random.seed(int(seed))
        np.random.seed(int(seed))
        expected = np.asarray(change(Image.fromarray(image.permute(1, 2, 0).numpy())))
        assert np.array_equal(changed.permute(1, 2, 0).numpy(), expected)


def test_changes_do_not_depend_on_what_python_and_numpy_drew_before():
    images = images_of(8)
    first = rand_augment(images, seeded(), POLICY, fill=(0, 0, 0))
    random.random(), np.random.rand()
    assert torch.equal(rand_augment(images, seeded(), POLICY, fill=(0, 0, 0)), first)


def test_what_comes_in_at_the_border_has_the_mean_colour_of_the_data():
    grey = torch.full((60, 20, 20, 3), 200, dtype=torch.uint8)
    mean = (0.1, 0.2, 0.3)
    loader = Loader(
        ImageSplit(grey, torch.arange(60)),
        60,
        mean=mean,
        std=(1 / 255,) * 3,
        augment=Augment(rand_augment="rand-m9-mstd0.5-inc1"),
    )
    images = next(iter(loader))[0].permute(0, 2, 3, 1)
    at_the_mean = (images.abs() < 0.6).all(-1)
    assert at_the_mean.any() and not at_the_mean.all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")  # on one core
def test_batches_of_files_are_a_function_of_seed_and_epoch_whatever_the_workers_and_the_start(image_folder):
    data = load_data(f"folder:{image_folder()}", image_size=16, interpolation="bicubic")
    augment = Augment(flip=True, erase=0.5, erase_mode="const", rand_augment=POLICY)

    def batches(num_workers: int, start_batch: int):
        settings = {"mean": data.mean, "std": data.std, "augment": augment, "shuffle": True}
        return list(Loader(data.train, 2, **settings, num_workers=num_workers).iterate(1, start_batch))

    alone = batches(0, 0)
    for num_workers, start_batch in ((0, 1), (2, 1)):
        for (images, labels), (expected, wanted) in zip(batches(num_workers, start_batch), alone[1:], strict=True):
            assert torch.equal(images, expected)
            assert torch.equal(labels, wanted)


@pytest.mark.parametrize(
    "policy", ["", "rand-", "rand-x9", "randm9", "augmix-m9", "rand-m9-tfoo", "rand-m-9", "rand-n0"]
)
def test_what_timm_would_not_understand_is_refused(policy):
    with pytest.raises(ValueError, match=r"rand_augment must be None or a policy of timm such as .*, got '"):
        Augment(rand_augment=policy)


def test_two_policies_floats_and_what_is_no_image_are_refused():
    with pytest.raises(ValueError, match="rand_augment must be None with auto_augment=imagenet"):
        Augment(rand_augment=POLICY, auto_augment="imagenet")
    with pytest.raises(ValueError, match=r"rand_augment wants uint8 images, got torch\.float32"):
        Augment(rand_augment=POLICY).move(images_of(2).float(), seeded())
    two = ImageSplit(torch.zeros(4, 3, 3, 2, dtype=torch.uint8), torch.arange(4))
    with pytest.raises(ValueError, match=r"rand_augment is for images .* got 2 channels"):
        Loader(two, 4, mean=(0.0, 0.0), std=(1.0, 1.0), augment=Augment(rand_augment=POLICY))
