import pytest
import torch
from torch import nn

from spimm.layers import ConvNeuron
from spimm.neurons import IF, LIF, Neuron

from .conftest import is_channels_last, steps


@pytest.mark.parametrize("neuron", [LIF(), IF(v_reset=None), None])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("shortcut", [False, True])
@pytest.mark.parametrize("shared", [False, True])
@torch.no_grad()
def test_a_folded_unit_is_convolution_pool_neuron_and_shortcut(
    shared: bool, shortcut: bool, pool: bool, neuron: Neuron | None
) -> None:
    unit = ConvNeuron(nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last), pool=pool, neuron=neuron)
    x = steps(1 if shared else 4, 2, 3, 9, 7, scale=5)
    added = steps(4, 2, 8, 5, 4) if pool else steps(4, 2, 8, 9, 7)
    y = unit(x, 4 if shared else None, added=added if shortcut else None)
    membrane = torch.stack([unit.conv(step) for step in x])
    if pool:
        membrane = torch.stack([nn.functional.max_pool2d(step, 3, 2, 1) for step in membrane])
    expected = membrane if neuron is None else neuron(membrane.expand(4, -1, -1, -1, -1))
    assert torch.equal(y, expected + added if shortcut else expected) and is_channels_last(y)


@torch.no_grad()
def test_a_folded_unit_brings_its_input_to_the_dtype_it_stores() -> None:
    unit = ConvNeuron(nn.Conv2d(3, 8, 1).bfloat16(), pool=False, neuron=LIF(), storage=torch.bfloat16)
    x = steps(4, 2, 3, 5, 5)
    assert unit(x).dtype == torch.bfloat16 and torch.equal(unit(x), unit(x.bfloat16()))


def test_a_folded_unit_has_the_state_of_its_convolution_alone() -> None:
    unit = ConvNeuron(nn.Conv2d(3, 8, 1), pool=False, neuron=LIF())
    assert set(unit.state_dict()) == {"conv.weight", "conv.bias"}
