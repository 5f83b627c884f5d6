import pytest
import torch
from torch import nn

from spimm.layers import Residual, check_shortcut, entry, exit_neuron
from spimm.neurons import LIF

from .conftest import steps


def test_spike_add_puts_the_neuron_behind_the_branch() -> None:
    assert isinstance(entry("spike_add", LIF), nn.Identity)
    assert isinstance(exit_neuron("spike_add", LIF), LIF)


def test_membrane_puts_the_neuron_in_front_of_the_branch() -> None:
    assert isinstance(entry("membrane", LIF), LIF)
    assert exit_neuron("membrane", LIF) is None


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
def test_a_branch_that_gives_nothing_leaves_the_identity(shortcut) -> None:
    x, seen = steps(3, 2, 4, 5, 5), []
    residual = Residual(nn.Identity(), shortcut=shortcut, neuron_fn=LIF)
    residual.branch.register_forward_hook(lambda module, inputs, output: seen.append(output) or 0 * output)
    assert torch.equal(residual(x), x)
    assert torch.equal(seen[0], LIF()(x) if shortcut == "membrane" else x)


def test_an_unknown_shortcut_is_refused() -> None:
    check_shortcut("spike_add")
    with pytest.raises(ValueError, match="unknown shortcut 'sew'; wanted one of spike_add, membrane"):
        check_shortcut("sew")
