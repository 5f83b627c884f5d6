import math

import pytest
import torch
from torch.nn import functional as F

from spimm.data import Augment
from spimm.data.transforms import (
    auto_augment,
    channel_statistics,
    cutout,
    erase,
    flip,
    normalize,
    resize,
    shift,
    warp,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images_of(batch: int = 16, channels: int = 3, height: int = 9, width: int = 7) -> torch.Tensor:
    shape = (batch, channels, height, width)
    images = torch.randint(1, 256, shape, dtype=torch.uint8, generator=seeded(1))
    return images.contiguous(memory_format=torch.channels_last)


AUGMENTS = [
    Augment(pad=2),
    Augment(flip=True),
    Augment(erase=0.5),
    Augment(rotate=20),
    Augment(shear=20),
    Augment(cutout=4),
    Augment(pad=3, flip=True, erase=1, rotate=180, shear=45),
    Augment(pad=3, flip=True, rotate=180, shear=45, fill=128, cutout=3),
]


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels", [1, 3])
def test_augmentation_keeps_shape_and_dtype_repeats_by_seed_and_spares_its_input(augment, dtype, layout, channels):
    images = images_of(channels=channels).to(dtype).contiguous(memory_format=layout)
    before = images.clone()
    result = augment(images, seeded())
    assert result.shape == images.shape
    assert result.dtype == dtype
    assert torch.equal(images, before)
    assert torch.equal(result, augment(images, seeded()))
    assert not torch.equal(result, augment(images, seeded(1)))
    if layout == torch.channels_last:
        assert result.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("augment", AUGMENTS, ids=str)
def test_every_image_of_a_batch_draws_its_own_augmentation(augment):
    copies = images_of(batch=1).expand(32, -1, -1, -1)
    result = augment(copies, seeded())
    assert len(torch.unique(result, dim=0)) > 1


@pytest.mark.parametrize(
    "transform",
    [
        lambda x, g: shift(x, 2, g),
        flip,
        lambda x, g: warp(x, g, rotate=30, shear=10),
        lambda x, g: auto_augment(x, g, "imagenet"),
        lambda x, g: auto_augment(x, g, "cifar10", fill=128),
    ],
)
def test_moving_one_image_does_not_touch_the_others(transform):
    images = images_of()
    changed = images.clone()
    changed[3] = 0
    difference = (transform(images, seeded()) != transform(changed, seeded())).flatten(1).any(dim=1)
    assert difference.nonzero().flatten().tolist() == [3]


def test_no_augmentation_changes_nothing():
    assert torch.equal(Augment()(images_of(), seeded()), images_of())


@pytest.mark.parametrize("fill", [0, 128])
def test_a_shift_is_a_crop_from_the_padded_image_and_reaches_every_offset(fill):
    images, pad = images_of(batch=200), 2
    height, width = images.shape[-2:]
    padded = F.pad(images, (pad,) * 4, value=fill)
    found = set()
    for image, frame in zip(shift(images, pad, seeded(), fill=fill), padded, strict=True):
        offsets = [
            (top, left)
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            if torch.equal(image, frame[:, top : top + height, left : left + width])
        ]
        assert len(offsets) == 1
        found.update(offsets)
    assert len(found) == 25


def test_a_flip_mirrors_about_half_of_the_images_left_to_right():
    images = images_of(batch=400)
    result = flip(images, seeded())
    mirrored = (result == images.flip(3)).flatten(1).all(dim=1)
    same = (result == images).flatten(1).all(dim=1)
    assert bool((mirrored ^ same).all())
    assert 150 < int(mirrored.sum()) < 250


def test_erasing_replaces_one_rectangle_in_the_expected_share_of_images():
    images = torch.full((600, 3, 16, 12), 7.0)
    changed = (erase(images, 0.25, seeded()) != images).any(dim=1)
    touched = changed.flatten(1).any(dim=1)
    assert 110 < int(touched.sum()) < 190
    for mask in changed[touched]:
        rows, columns = mask.any(dim=1).nonzero().flatten(), mask.any(dim=0).nonzero().flatten()
        rectangle = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert rectangle.all()
        assert 0 < mask.float().mean() < 0.45


@pytest.mark.parametrize("size", [(8, 8), (9, 5)])
@pytest.mark.parametrize(("turn", "slant"), [(10, 0), (0, 12), (10, 12)])
def test_a_warp_by_known_angles_moves_a_pixel_where_trigonometry_says(turn, slant, size, monkeypatch):
    height, width = size
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.ones(count))  # the largest angle
    ramp = torch.arange(width).float().expand(1, 1, height, width).contiguous()
    warped = warp(ramp, seeded(), rotate=turn, shear=slant)
    row, column = height // 2 + 1, width // 2
    down, right = row - (height - 1) / 2, column - (width - 1) / 2
    cos, sin, tan = math.cos(math.radians(turn)), math.sin(math.radians(turn)), math.tan(math.radians(slant))
    turned_right, turned_down = right * cos - down * sin, right * sin + down * cos
    source = turned_right + tan * turned_down + (width - 1) / 2
    torch.testing.assert_close(warped[0, 0, row, column].item(), source, atol=1e-4, rtol=0)


def test_a_shear_of_45_degrees_moves_each_row_by_its_height_and_no_pixel_up_or_down(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda count, **_: torch.ones(count))
    images = images_of(height=9, width=9)
    slanted = warp(images, seeded(), shear=45)
    for row in range(9):
        moved = row - 4
        kept = images[..., row, max(moved, 0) : 9 + min(moved, 0)]
        assert torch.equal(slanted[..., row, max(-moved, 0) : 9 - max(moved, 0)], kept)
        assert slanted[..., row, :].count_nonzero() == kept.numel()


def test_no_warp_changes_nothing_and_no_shear_leaves_the_turn_and_its_draws_alone():
    images, alone, beside = images_of(), seeded(), seeded()
    assert torch.equal(warp(images, alone), images)
    assert torch.equal(alone.get_state(), beside.get_state())
    warp(images, alone, rotate=30)
    torch.rand(len(images), generator=beside)
    assert torch.equal(alone.get_state(), beside.get_state())


def test_cutout_is_a_square_of_zeros_around_any_pixel_of_each_image_cut_off_at_the_border():
    height, width, side = 9, 7, 4
    images = images_of(batch=3000, height=height, width=width).float()
    expected = set()
    for row in range(height):
        for column in range(width):
            top, left = max(row - side // 2, 0), max(column - side // 2, 0)
            expected.add((top, min(row + side // 2, height), left, min(column + side // 2, width)))
    found = set()
    result = cutout(images, side, seeded())
    hidden = (result != images).all(1)
    for mask in hidden:
        rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
        top, bottom, left, right = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        assert mask[top:bottom, left:right].all() and mask.sum() == (bottom - top) * (right - left)
        found.add((top, bottom, left, right))
    assert found == expected
    assert torch.equal(result, images.masked_fill(hidden[:, None], 0))


def test_a_cutout_of_an_odd_side_has_that_side():
    hidden = cutout(torch.ones(200, 1, 9, 9), 3, seeded()) == 0
    assert hidden.sum((1, 2, 3)).max() == 9


def test_a_warp_by_the_nearest_pixel_makes_no_new_values():
    images = (torch.rand(5, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.3).to(torch.uint8) * 200
    settings = {"rotate": 40, "shear": 20}
    nearest, blended = (warp(images, seeded(), **settings, nearest=chosen) for chosen in (True, False))
    assert set(nearest.unique().tolist()) == {0, 200} and len(blended.unique()) > 10
    augmented = Augment(**settings, nearest=True)(images, seeded())
    assert torch.equal(augmented, nearest)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_warp_of_grey_into_grey_changes_nothing_and_black_comes_in_without_a_fill(dtype):
    grey = torch.full((8, 3, 9, 7), 128, dtype=dtype)
    torch.testing.assert_close(warp(grey, seeded(), rotate=90, shear=30, fill=128), grey, atol=1e-4, rtol=0)
    assert (warp(grey, seeded(), rotate=90, shear=30) == 0).any()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("policy", "fill"), [("imagenet", 0), ("cifar10", 128)])
def test_auto_augment_repeats_by_generator_draws_for_each_image_and_spares_input_and_global_generator(
    channels, policy, fill
):
    images = images_of(batch=1, channels=channels).expand(64, -1, -1, -1)
    before, state = images.clone(), torch.get_rng_state()
    result = Augment(auto_augment=policy, fill=fill)(images, seeded())
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(result, auto_augment(images, seeded(), policy, fill=fill))
    assert not torch.equal(result, auto_augment(images, seeded(1), policy, fill=fill))
    assert len(result.unique(dim=0)) > 10
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_auto_augment_holds_the_operations_of_its_policy():
    images = images_of(batch=1).expand(400, -1, -1, -1)
    result = auto_augment(images, seeded(), "imagenet")
    assert (result == images).flatten(1).all(1).any()  # both operations left out
    assert (result == 255 - images).flatten(1).all(1).any()  # inverted and not equalized
    assert (result[:, :, 0, 0] == 0).all(1).any()  # turned: black comes in


def test_the_policies_of_auto_augment_differ_and_only_that_of_cifar10_moves_images_sideways():
    images = torch.full((400, 3, 16, 16), 90, dtype=torch.uint8)
    for policy, moves in (("imagenet", False), ("cifar10", True)):
        black = auto_augment(images, seeded(), policy) == 0
        beside = black.all(1)[:, :, :2].all((1, 2)) & ~black.all(1)[:, :, 8].any(1)  # whole columns at the left edge
        assert beside.any() == moves


def test_auto_augment_fills_with_the_grey_it_is_given():
    images = torch.full((400, 3, 16, 16), 200, dtype=torch.uint8)
    beside = auto_augment(images, seeded(), "cifar10", fill=128)[:, :, :, 0]  # moved sideways, and nothing else
    assert (beside == 128).all((1, 2)).any()


def test_auto_augment_of_an_older_recipe_is_the_policy_of_imagenet_or_none():
    assert Augment(auto_augment=True) == Augment(auto_augment="imagenet")
    assert Augment(auto_augment=False) == Augment()


def test_auto_augment_of_floats_is_refused():
    with pytest.raises(ValueError, match=r"auto_augment wants uint8 images, got torch\.float32"):
        Augment(auto_augment="imagenet")(images_of().float(), seeded())


def test_normalisation_is_the_textbook_formula_in_channels_last_memory():
    images, mean, std = images_of(), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    result = normalize(images, mean, std)
    expected = (images / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)


def test_channel_statistics_agree_with_torch():
    images = images_of().permute(0, 2, 3, 1)
    mean, std = channel_statistics(images)
    expected = (images.double() / 255).flatten(0, 2)
    torch.testing.assert_close(torch.tensor(mean), expected.mean(0).float())
    torch.testing.assert_close(torch.tensor(std), expected.std(0, correction=0).float())


@pytest.mark.parametrize("size", [3, 9, 20])
def test_resizing_is_antialiased_bilinear_to_one_grey_level(size):
    images = images_of().permute(0, 2, 3, 1)
    result = resize(images, size)
    floats = images.permute(0, 3, 1, 2).float()
    expected = F.interpolate(floats, size=(size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1)
    assert result.dtype == torch.uint8
    assert result.is_contiguous()
    assert (result.float() - expected.round()).abs().max() <= 1


def test_resizing_to_the_same_size_is_the_identity():
    images = torch.zeros(2, 5, 5, 1, dtype=torch.uint8)
    assert resize(images, 5) is images


@pytest.mark.parametrize(
    "settings",
    [
        {"pad": -1},
        {"erase": 1.5},
        {"rotate": 200},
        {"shear": 90},
        {"shear": -1},
        {"crop_scale": (0.9, 0.1)},
        {"crop_scale": (0.0, 1.0)},
        {"auto_augment": "svhn"},
        {"cutout": -1},
        {"fill": -1},
        {"fill": 256},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must"):
        Augment(**settings)
