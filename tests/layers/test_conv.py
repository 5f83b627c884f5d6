from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, max_pool2d

from spimm.layers import ConvNormNeuron, SpikeConv2d
from spimm.neurons import IF, LIF, PLIF, Neuron

from .conftest import is_channels_last, steps


def by_hand(unit: ConvNormNeuron, x: Tensor) -> Tensor:
    """The unit written out with torch's own modules, from the repeated input."""
    shape = x.shape[:2]
    y = unit.norm(unit.conv(x.flatten(0, 1)))
    y = max_pool2d(y, 3, stride=2, padding=1) if unit.pool else y
    y = y.unflatten(0, shape)
    return y if unit.neuron is None else unit.neuron(y)


@pytest.mark.parametrize("neuron", [LIF(), IF(v_reset=None), PLIF(3.0), None])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shared", [True, False])
def test_a_unit_is_convolution_norm_pool_and_neuron(
    shared: bool, training: bool, pool: bool, neuron: Neuron | None
) -> None:
    unit = ConvNormNeuron(3, 8, 3, pool=pool, neuron=neuron).train(training)
    x = steps(1 if shared else 4, 2, 3, 9, 7)
    y = unit(x, 4 if shared else None)
    expected = by_hand(unit, x.expand(4, -1, -1, -1, -1))
    if neuron is None:
        torch.testing.assert_close(y.expand_as(expected), expected, atol=1e-5, rtol=1e-5)
    else:
        assert (y != expected).sum() <= 1
    assert y.shape[-2:] == ((5, 4) if pool else (9, 7))
    assert is_channels_last(y)


@pytest.mark.parametrize(("kernel_size", "stride"), [(1, 1), (1, 2), (3, 1), (3, 2), (7, 2)])
def test_heights_and_widths_are_divided_by_the_stride_and_rounded_up(kernel_size: int, stride: int) -> None:
    unit = ConvNormNeuron(2, 4, kernel_size, stride=stride, neuron=LIF())
    assert unit(steps(2, 1, 2, 11, 6)).shape == (2, 1, 4, -(-11 // stride), -(-6 // stride))


def test_the_unit_has_a_bias_only_if_asked() -> None:
    assert ConvNormNeuron(2, 4, 1, neuron=LIF()).conv.bias is None
    assert isinstance(ConvNormNeuron(2, 4, 1, bias=True, neuron=LIF()).conv.bias, nn.Parameter)


@pytest.mark.parametrize("neuron", [LIF(), None])
@pytest.mark.parametrize("pool", [False, True])
def test_a_shortcut_is_added_to_what_the_unit_gives(pool: bool, neuron: Neuron | None) -> None:
    unit = ConvNormNeuron(3, 8, 3, pool=pool, neuron=neuron).eval()
    x = steps(4, 2, 3, 9, 7)
    alone = unit(x)
    added = torch.randint_like(alone, 3)
    assert torch.equal(unit(x, added=added), alone + added)


@pytest.mark.parametrize(
    "change", [{"dilation": (2, 2)}, {"padding": (0, 1)}, {"stride": (1, 2)}, {"kernel_size": (1, 9)}, {"groups": 2}]
)
def test_a_convolution_of_another_form_is_torchs(change: dict[str, Any]) -> None:
    conv, x = SpikeConv2d(4, 6, 3), steps(1, 2, 4, 9, 9)[0]
    assert conv.is_plain
    for name, value in change.items():
        setattr(conv, name, value)
    if "groups" in change:
        conv.weight = nn.Parameter(conv.weight[:, :2])
    if "kernel_size" in change:
        conv.weight = nn.Parameter(conv.weight.flatten(2).unsqueeze(2))
    assert not conv.is_plain
    settings = (conv.stride, conv.padding, conv.dilation, conv.groups)
    assert torch.equal(conv(x), conv2d(x, conv.weight, None, *settings))


def test_a_shared_input_is_convolved_once() -> None:
    unit, seen = ConvNormNeuron(3, 8, 3, neuron=LIF()), []
    unit.conv.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    assert len(unit(steps(1, 2, 3, 8, 8), 6)) == 6
    assert seen == [2]
