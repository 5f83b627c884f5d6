"""The ConvNeXt part against its formula in plain torch."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, pad

from spimm.layers import ConvNeXt, create_spk
from spimm.neurons import LIF, MultiLIF

from .conftest import is_channels_last, lively, steps

LOW_LIF = partial(LIF, threshold=0.3)


def part(in_chans: int = 4, dim: int = 4, *, entry: str = "sum", stride: int = 1, kernel_size: int = 7) -> ConvNeXt:
    torch.manual_seed(0)
    spikes = MultiLIF(LIF(), (0.2, 1.0, 2.0), combine=entry) if entry in ("sum", "concat") else nn.Identity()
    if entry == "real":
        spikes = create_spk("gelu", in_chans, neuron_fn=LIF)
    settings = {"entry": spikes, "spk_fn": lambda channels: LOW_LIF(), "stride": stride, "kernel_size": kernel_size}
    return lively(ConvNeXt(in_chans, dim, **settings)).double().eval()


def summed(spikes: Tensor) -> Tensor:
    """[T, B, 3 C, H, W] -> [T, B, C, H, W]."""
    return sum(spikes.chunk(3, 2))  # type: ignore[return-value]


def depthwise(layer: ConvNeXt, spikes: Tensor) -> Tensor:
    """[N, n C, H, W], each branch with kernels of its own."""
    conv, count = layer.depthwise.conv, layer.branches
    settings = {"stride": conv.stride, "padding": conv.padding, "groups": spikes.shape[1] // count}
    pairs = zip(spikes.chunk(count, 1), conv.weight.chunk(count), strict=True)
    return sum(conv2d(branch, weight, **settings) for branch, weight in pairs)  # type: ignore[return-value]


def written_out(layer: ConvNeXt, x: Tensor) -> Tensor:
    spikes = layer.entry(x)
    y = layer.depthwise.norm(depthwise(layer, spikes.flatten(0, 1)))
    for unit in (layer.expand, layer.contract):
        fired = LOW_LIF()(y.unflatten(0, x.shape[:2])).flatten(0, 1)
        assert 0 < fired.mean() < 1
        y = unit.norm(conv2d(fired, unit.conv.weight))
    if layer.shortcut is None:
        return y.unflatten(0, x.shape[:2]) + x
    whole = (summed(spikes) if layer.branches > 1 else spikes).flatten(0, 1)
    if layer.stride > 1:
        height, width = whole.shape[2:]
        whole = pad(whole, (0, -width % layer.stride, 0, -height % layer.stride))
        whole = avg_pool2d(whole, layer.stride) * layer.stride**2
    return (y + layer.shortcut.norm(conv2d(whole, layer.shortcut.conv.weight))).unflatten(0, x.shape[:2])


@torch.no_grad()
@pytest.mark.parametrize("entry", ["sum", "concat", "real"])
@pytest.mark.parametrize(("dim", "stride", "kernel_size"), [(4, 1, 7), (8, 1, 3), (4, 2, 7), (12, 2, 5), (8, 3, 3)])
@pytest.mark.parametrize("size", [(8, 6), (9, 7)])
def test_it_is_its_formula(size: tuple[int, int], dim: int, stride: int, kernel_size: int, entry: str) -> None:
    layer, x = part(4, dim, entry=entry, stride=stride, kernel_size=kernel_size), steps(3, 2, 4, *size).double()
    y = layer(x)
    assert y.shape == (3, 2, dim, *(-(-side // stride) for side in size))
    assert (layer.shortcut is None) == (dim == 4 and stride == 1)
    torch.testing.assert_close(y, written_out(layer, x), atol=1e-10, rtol=1e-10)


@torch.no_grad()
def test_concatenated_branches_with_equal_kernels_are_their_sum() -> None:
    apart, joined = part(4, 8, entry="concat", stride=2), part(4, 8, stride=2)
    weights = joined.state_dict()
    apart.load_state_dict({**weights, "depthwise.conv.weight": weights["depthwise.conv.weight"].repeat(3, 1, 1, 1)})
    x = steps(3, 2, 4, 8, 6).double()
    torch.testing.assert_close(apart(x), joined(x), atol=1e-10, rtol=1e-10)


def test_the_norm_makes_the_pooled_sum_an_average() -> None:
    layer, x = part(4, 8, stride=2).train(), steps(3, 2, 4, 8, 6).double()
    shortcut = layer.shortcut
    assert shortcut is not None
    shortcut.norm.eps = 0.0
    spikes = layer.entry(x)
    mean = avg_pool2d(spikes.flatten(0, 1), 2).unflatten(0, (3, 2))
    torch.testing.assert_close(shortcut(layer._pooled(spikes)), shortcut(mean), atol=1e-10, rtol=1e-10)


def test_its_parameters_are_kernels_and_norms_alone() -> None:
    d = 8
    sizes = {name: p.numel() for name, p in part(4, d, entry="concat", stride=2).named_parameters()}
    assert {name: size for name, size in sizes.items() if "conv" in name} == {
        "depthwise.conv.weight": 3 * 49 * d,
        "expand.conv.weight": 4 * d * d,
        "contract.conv.weight": 4 * d * d,
        "shortcut.conv.weight": 4 * d,
    }
    assert sum(sizes.values()) == 8 * d * d + 3 * 49 * d + 4 * d + 2 * (d + 4 * d + d + d)


@pytest.mark.parametrize("entry", ["sum", "concat"])
def test_memory_stays_channels_last_and_gradients_are_finite(entry: str) -> None:
    layer = part(4, 8, entry=entry, stride=2).float().train().to(memory_format=torch.channels_last)
    x = steps(3, 2, 4, 9, 7).requires_grad_()
    y = layer(x)
    assert is_channels_last(y)
    y.square().sum().backward()
    gradients = [x.grad, *(parameter.grad for parameter in layer.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
