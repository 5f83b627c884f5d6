import pytest
import torch
from torch import Tensor

from spimm.data import Mix


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def indicators(batch: int) -> tuple[Tensor, Tensor]:
    """Images whose channel k is 1 in image k and 0 in the others, and labels 0..batch - 1."""
    labels = torch.arange(batch)
    return torch.eye(batch)[:, :, None, None].repeat(1, 1, 8, 10).contiguous(memory_format=torch.channels_last), labels


MIXES = [Mix(5, mixup=0.8), Mix(5, cutmix=1.0), Mix(5, mixup=0.8, cutmix=1.0)]


@pytest.mark.parametrize("mix", MIXES, ids=str)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_label_has_the_share_of_its_image(batch: int, mix: Mix) -> None:
    images, labels = indicators(batch)
    for seed in range(10):
        mixed, targets = mix(images, labels, seeded(seed))
        assert (targets.shape, targets.dtype) == ((batch, 5), torch.float32)
        torch.testing.assert_close(mixed.mean((2, 3)), targets[:, :batch])
        torch.testing.assert_close(targets.sum(1), torch.ones(batch))
        assert mixed.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mix", MIXES, ids=str)
def test_mixing_repeats_by_generator_and_spares_input_and_global_generator(mix: Mix) -> None:
    images, labels = indicators(5)
    before, state = images.clone(), torch.get_rng_state()
    first, again, other = (mix(images, labels, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])
    assert torch.equal(images, before)
    assert labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(torch.get_rng_state(), state)


def test_mixup_blends_cutmix_pastes_one_rectangle_and_both_share_the_batches() -> None:
    images, labels = indicators(5)
    blended, _ = Mix(5, mixup=1.0)(images, labels, seeded())
    assert torch.equal(blended, blended[:, :, :1, :1].expand_as(blended))
    pasted, _ = Mix(5, cutmix=1.0)(images, labels, seeded())
    foreign = pasted[0, 0] == 0
    rows, columns = foreign.any(1).nonzero().flatten(), foreign.any(0).nonzero().flatten()
    assert foreign[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
    assert set(pasted.unique().tolist()) == {0.0, 1.0}
    both = Mix(5, mixup=1.0, cutmix=1.0)
    blends = sum(len(both(images, labels, seeded(seed))[0].unique()) > 2 for seed in range(200))
    assert 70 < blends < 130


def test_a_large_parameter_takes_half_of_each_image() -> None:
    images, labels = indicators(4)
    _, targets = Mix(4, mixup=1e6)(images, labels, seeded())
    torch.testing.assert_close(targets, (torch.eye(4) + torch.eye(4).roll(1, 0)) / 2, atol=0.01, rtol=0)


def test_the_epochs_are_counted_from_the_first() -> None:
    assert [Mix(3, mixup=1.0, epochs=2).covers(epoch) for epoch in range(4)] == [True, True, False, False]
    assert Mix(3, mixup=1.0).covers(10**6)


@pytest.mark.parametrize("settings", [{"mixup": -0.1}, {"cutmix": float("inf")}, {"mixup": float("nan")}, {}])
def test_values_out_of_range_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"{next(iter(settings), 'mixup or cutmix')} must be .*, got"):
        Mix(3, **settings)


@pytest.mark.parametrize("mix", [Mix(5, mixup=0.8, probability=0.3), Mix(5, cutmix=1.0, probability=0.3)], ids=str)
def test_a_share_of_the_batches_is_mixed_and_the_others_keep_their_images_and_labels(mix: Mix) -> None:
    images, labels = indicators(5)
    plain = 0
    for seed in range(300):
        mixed, targets = mix(images, labels, seeded(seed))
        assert targets.dtype == torch.float32
        if torch.equal(mixed, images):
            plain += 1
            assert torch.equal(targets, torch.eye(5))
    assert 180 < plain < 240


def test_a_probability_of_one_draws_nothing_more() -> None:
    images, labels = indicators(5)
    whole = Mix(5, mixup=0.8, probability=1.0)(images, labels, seeded())
    assert torch.equal(whole[0], Mix(5, mixup=0.8)(images, labels, seeded())[0])


@pytest.mark.parametrize("probability", [0.0, 1.5])
def test_a_probability_out_of_range_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match=rf"probability must lie in \(0, 1\], got {probability}"):
        Mix(5, mixup=0.5, probability=probability)
