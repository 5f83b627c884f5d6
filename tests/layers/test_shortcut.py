import pytest
import torch
from torch import nn

from spimm.layers import ATTENTIONS, Residual, SpikingMLP, check_shortcut, entry, exit_neuron, qk_attention
from spimm.neurons import LIF

from .conftest import lively, spike_steps, steps


def test_spike_add_puts_the_neuron_behind_the_branch() -> None:
    assert isinstance(entry("spike_add", LIF), nn.Identity)
    assert isinstance(exit_neuron("spike_add", LIF), LIF)


def test_membrane_puts_the_neuron_in_front_of_the_branch() -> None:
    assert isinstance(entry("membrane", LIF), LIF)
    assert exit_neuron("membrane", LIF) is None


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
def test_the_branch_sees_what_the_entry_gives_and_adds_the_input(shortcut) -> None:
    x, residual = steps(3, 2, 4, 5, 5), Residual(nn.Identity(), shortcut=shortcut, neuron_fn=LIF)
    residual.branch.forward = lambda y, added: 3 * y + added
    assert torch.equal(residual(x), 3 * (LIF()(x) if shortcut == "membrane" else x) + x)


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
@pytest.mark.parametrize("kind", ["mlp", *ATTENTIONS])
def test_every_branch_adds_in_its_last_op(kind: str, shortcut) -> None:
    last = exit_neuron(shortcut, LIF)
    if kind == "mlp":
        branch = SpikingMLP(8, 16, neuron=LIF(), last_neuron=last)
    else:
        branch = qk_attention(kind, 8, 2, neuron_fn=LIF, attention_neuron_fn=LIF, last_neuron=last)
    x, added = spike_steps(3, 2, 8, 4, 5), spike_steps(3, 2, 8, 4, 5, seed=1)
    alone = lively(branch).eval()(x)
    assert alone.any()
    torch.testing.assert_close(branch(x, added), alone + added)


def test_an_unknown_shortcut_is_refused() -> None:
    check_shortcut("spike_add")
    with pytest.raises(ValueError, match="unknown shortcut 'sew'; wanted one of spike_add, membrane"):
        check_shortcut("sew")
