import pytest
import torch

from spimm.data import Augment
from spimm.data.transforms import erase


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pieces(mask: torch.Tensor) -> int:
    """Four-connected regions of a mask [H, W]."""
    left, found = {tuple(place) for place in mask.nonzero().tolist()}, 0
    while left:
        found, waiting = found + 1, [left.pop()]
        while waiting:
            row, column = waiting.pop()
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            waiting += near
    return found


def test_one_rectangle_is_erased_by_noise_or_by_zeros_in_the_same_place():
    images = torch.full((200, 3, 16, 12), 7.0)
    noise, zeros = (erase(images, 0.5, seeded(), mode=mode) for mode in ("pixel", "const"))
    places = (noise != images).any(1)
    assert torch.equal(places, (zeros != images).any(1))
    assert set(zeros.unique().tolist()) == {0.0, 7.0}
    assert len(noise[places[:, None].expand_as(noise)].unique()) > 100


def test_several_rectangles_share_the_area_of_one():
    images = torch.full((400, 1, 40, 40), 7.0)
    areas, regions = [], []
    for count in (1, 3):
        mask = (erase(images, 1.0, seeded(), mode="const", count=count) == 0)[:, 0]
        areas.append(mask.float().mean().item())
        regions.append({pieces(each) for each in mask[:50]})
    assert regions[0] == {1} and regions[1] <= {1, 2, 3} and 3 in regions[1]
    assert 0.14 < areas[0] < 0.2
    assert 0.7 * areas[0] < areas[1] < areas[0]  # they may overlap


@pytest.mark.parametrize("count", [1, 2])
def test_augment_passes_mode_and_count_on_and_by_default_there_is_one_patch_of_noise(count):
    images = torch.full((20, 3, 16, 12), 7.0)
    augment = Augment(erase=0.5, erase_mode="const", erase_count=count)
    assert torch.equal(augment.hide(images, seeded()), erase(images, 0.5, seeded(), mode="const", count=count))
    assert torch.equal(Augment(erase=0.5).hide(images, seeded()), erase(images, 0.5, seeded()))


@pytest.mark.parametrize("settings", [{"erase_mode": "rand"}, {"erase_count": 0}])
def test_settings_out_of_range_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"{name} must be .*, got"):
        Augment(**settings)
