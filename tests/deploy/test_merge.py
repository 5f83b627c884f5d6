"""Chains of linear layers against the one convolution that stands for them."""

import copy

import pytest
import torch
from torch import Tensor, nn

from spimm.deploy import Pad, Step, linear_steps, merge_convs, norm_scale

from .conftest import settled

TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5}


class BorderNorm(nn.BatchNorm2d):
    """Batch norm, then a border of one pixel of what it gives for zero input."""

    def forward(self, input: Tensor) -> Tensor:
        edge = super().forward(input.new_zeros(1, input.shape[1], 1, 1))
        y = edge.expand(len(input), -1, input.shape[2] + 2, input.shape[3] + 2).clone()
        y[..., 1:-1, 1:-1] = super().forward(input)
        return y


@linear_steps.register
def _(module: BorderNorm) -> tuple[Step, ...]:
    scale = norm_scale(module)
    return scale, Pad((1, 1), scale.shift)


class SpecialConv(nn.Conv2d):
    """A kind of convolution, with a constructor and a setting of its own."""

    def __init__(self, *, chans: int, setting: str):
        super().__init__(chans, chans + 1, 1, bias=False)
        self.setting = setting


def pointwise(in_chans: int, out_chans: int, **settings: bool | int) -> nn.Conv2d:
    return nn.Conv2d(in_chans, out_chans, 1, **{"bias": False, **settings})


def depthwise(chans: int, size: int, padding: int = 0, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(chans, chans, size, padding=padding, groups=chans, bias=bias)


def rep_conv(dim: int, middle: int, out: int) -> list[nn.Module]:
    """RepConv of Meta-SpikeFormer and the norm behind it."""
    inner = nn.Sequential(depthwise(middle, 3), pointwise(middle, out))
    return [pointwise(dim, middle), BorderNorm(middle), inner, nn.BatchNorm2d(out), nn.BatchNorm2d(out)]


CHAINS = {
    "RepConv": lambda: rep_conv(6, 10, 8),
    "SepConv": lambda: [depthwise(6, 7, 3), pointwise(6, 9), nn.BatchNorm2d(9)],
    "conv, norm": lambda: [nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8)],
    "conv, norm without weights": lambda: [nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False)],
    "norm, 1x1": lambda: [nn.BatchNorm2d(6), pointwise(6, 4)],
    "norm, unpadded depthwise": lambda: [nn.BatchNorm2d(6), depthwise(6, 3)],
    "1x1, padded": lambda: [pointwise(6, 5), nn.Conv2d(5, 8, 5, padding=2), nn.BatchNorm2d(8)],
    "strided 1x1, strided padded": lambda: [pointwise(6, 5, stride=2), nn.Conv2d(5, 8, 3, stride=2, padding=1)],
    "padded and strided, unpadded": lambda: [nn.Conv2d(6, 5, (3, 2), (2, 1), (1, 2)), nn.Conv2d(5, 8, (2, 3))],
    "groups, other groups": lambda: [nn.Conv2d(6, 12, 3, groups=2), nn.BatchNorm2d(12), nn.Conv2d(12, 8, 2, groups=4)],
    "dilated, dilated": lambda: [nn.Conv2d(6, 5, 2, dilation=2, padding=1), nn.Conv2d(5, 8, 2, dilation=(1, 3))],
    "same padding": lambda: [nn.Conv2d(6, 8, 3, dilation=2, padding="same"), nn.BatchNorm2d(8)],
    "valid padding": lambda: [nn.Conv2d(6, 8, 3, padding="valid"), nn.Identity(), nn.Sequential(nn.BatchNorm2d(8))],
}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("size", [(9, 12), (5, 5)])
@pytest.mark.parametrize("name", CHAINS)
@torch.no_grad()
def test_one_convolution_stands_for_a_chain_borders_included(
    name: str, size: tuple[int, int], dtype: torch.dtype
) -> None:
    chain = settled(nn.Sequential(*CHAINS[name]())).to(dtype)
    x = torch.randn(2, 6, *size, dtype=dtype)
    expected, merged = chain(x), merge_convs(chain)
    assert type(merged) is nn.Conv2d and merged.weight.dtype == dtype
    assert merged.weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(merged(x), expected, atol=TOLERANCES[dtype] * float(expected.abs().max()), rtol=0)


@torch.no_grad()
def test_repconv_becomes_the_dense_3x3_kernel_of_the_papers_derivation() -> None:
    first, norm, inner, second, outside = chain = settled(nn.Sequential(*rep_conv(4, 7, 5))).double()
    merged, (spread, mix) = merge_convs(chain), inner
    (g1, h1), (g2, h2), (g3, h3) = ((s.gain, s.shift) for s in map(norm_scale, (norm, second, outside)))
    kernel = torch.einsum(
        "om,mab,mk->okab", mix.weight[..., 0, 0], spread.weight[:, 0], first.weight[..., 0, 0] * g1[:, None]
    )
    bias = mix.weight[..., 0, 0] @ (spread.weight.sum((1, 2, 3)) * h1)
    torch.testing.assert_close(merged.weight, kernel * (g3 * g2).view(-1, 1, 1, 1))
    torch.testing.assert_close(merged.bias, g3 * (g2 * bias + h2) + h3)
    assert (merged.padding, merged.stride, merged.groups) == ((1, 1), (1, 1), 1)


def test_groups_and_dilation_stay_where_they_can() -> None:
    merged = merge_convs([depthwise(6, 3), nn.BatchNorm2d(6).eval(), depthwise(6, 3)])
    assert (merged.groups, merged.weight.shape) == (6, (6, 1, 5, 5))
    merged = merge_convs([nn.Conv2d(6, 4, 3, dilation=2, groups=2), nn.BatchNorm2d(4).eval()])
    assert (merged.dilation, merged.groups, merged.kernel_size) == ((2, 2), 2, (3, 3))


@torch.no_grad()
def test_the_result_has_the_class_and_settings_of_the_first_convolution() -> None:
    chain = nn.Sequential(SpecialConv(chans=3, setting="kept"), nn.Conv2d(4, 5, 3, padding=1))
    merged, x = merge_convs(chain), torch.randn(2, 3, 4, 5)
    assert type(merged) is SpecialConv and merged.setting == "kept"
    assert (merged.out_channels, merged.kernel_size, chain[0].out_channels) == (5, (3, 3), 4)
    torch.testing.assert_close(merged(x), chain(x))


def test_merging_changes_neither_the_modules_nor_the_random_numbers() -> None:
    conv = nn.Conv2d(3, 4, 3).double().to(memory_format=torch.channels_last)
    state, before = copy.deepcopy(conv.state_dict()), torch.get_rng_state()
    merged = merge_convs([conv])
    with torch.no_grad():
        merged.weight.zero_(), merged.bias.zero_()
    assert all(torch.equal(value, state[key]) for key, value in conv.state_dict().items())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("chain", "named"),
    [
        (lambda: [nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1)], "Conv2d(3, 4, kernel_size=(3, 3)"),
        (lambda: [pointwise(3, 5, bias=True), nn.Conv2d(5, 4, 3, padding=1)], "Conv2d(5, 4"),
        (lambda: [nn.Conv2d(3, 5, 3, padding=1, bias=False), nn.Conv2d(5, 4, 3, padding=1)], "Conv2d(5, 4"),
        (lambda: [pointwise(3, 5, bias=True), BorderNorm(5), depthwise(5, 3)], "BorderNorm(5"),
        (lambda: [nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)], "ReLU"),
        (lambda: [nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(4)], "BatchNorm2d"),
        (lambda: [nn.BatchNorm2d(3)], "BatchNorm2d"),
        (lambda: [], "no chain"),
    ],
)
def test_a_chain_that_is_no_convolution_is_refused_and_the_module_named(chain, named) -> None:
    with pytest.raises(ValueError, match="convolution") as error:
        merge_convs(settled(nn.Sequential(*chain())))
    assert named in str(error.value)


def test_padding_on_one_side_is_refused() -> None:
    with pytest.raises(ValueError, match="one side"):
        merge_convs([nn.Conv2d(3, 4, 2, padding="same")])
