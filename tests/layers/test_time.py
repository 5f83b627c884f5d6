import pytest
import torch
from torch import nn

from spimm.layers import as_sequence, over_time

from .conftest import is_channels_last, steps


def test_over_time_treats_every_step_alike() -> None:
    conv, x = nn.Conv2d(3, 5, 3, stride=2), steps(4, 2, 3, 9, 7)
    y = over_time(conv, x)
    assert y.shape == (4, 2, 5, 4, 3)
    for t in range(4):
        torch.testing.assert_close(y[t], conv(x[t]))


def test_folding_time_moves_no_memory() -> None:
    x, seen = steps(4, 2, 3, 9, 7), []
    y = over_time(lambda folded: seen.append(folded) or folded, x)
    assert seen[0].data_ptr() == y.data_ptr() == x.data_ptr()
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert y.stride() == x.stride()


def test_an_image_becomes_one_shared_step_and_a_sequence_puts_time_first() -> None:
    image = torch.randn(2, 3, 5, 4)
    one, num_steps = as_sequence(image, 6, 3)
    assert (one.shape, num_steps) == ((1, 2, 3, 5, 4), 6)
    assert torch.equal(one[0], image)
    sequence = torch.randn(2, 7, 3, 5, 4)
    many, num_steps = as_sequence(sequence, 6, 3)
    assert (many.shape, num_steps) == ((7, 2, 3, 5, 4), 7)
    assert torch.equal(many, sequence.transpose(0, 1))
    assert is_channels_last(one) and is_channels_last(many)


def test_an_image_in_channels_last_memory_is_not_copied() -> None:
    image = torch.randn(2, 3, 5, 4).to(memory_format=torch.channels_last)
    assert as_sequence(image, 4, 3)[0].data_ptr() == image.data_ptr()


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 8), r"shape \(3, 8, 8\); wanted an image \[B, C, H, W\] or a sequence \[B, T, C, H, W\]"),
        ((1, 1, 1, 3, 8, 8), r"wanted an image"),
        ((2, 4, 8, 8), r"has 4 channels; the model takes 3"),
        ((2, 3, 4, 8, 8), r"has 4 channels; the model takes 3"),
        ((0, 3, 8, 8), r"is empty"),
        ((2, 0, 3, 8, 8), r"is empty; wanted at least one image and one step"),
    ],
)
def test_input_of_another_form_is_refused(shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        as_sequence(torch.zeros(shape), 4, 3)
