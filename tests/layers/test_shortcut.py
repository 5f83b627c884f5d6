import pytest
import torch
from torch import nn

from spimm.layers import (
    ATTENTIONS,
    SDSA,
    ConvUnit,
    Ending,
    Residual,
    SepConv,
    SpikingMLP,
    check_shortcut,
    ending,
    entry,
    qk_attention,
    sdsa,
)
from spimm.neurons import LIF

from .conftest import lively, spike_steps, steps


def test_spike_add_puts_the_neuron_behind_the_branch() -> None:
    assert isinstance(entry("spike_add", LIF), nn.Identity)
    assert isinstance(ending("spike_add", LIF).neuron, LIF)


def test_vanilla_puts_the_neuron_behind_the_sum() -> None:
    assert isinstance(entry("vanilla", LIF), nn.Identity)
    end = ending("vanilla", LIF)
    assert isinstance(end.neuron, LIF) and end.adds_first


def test_membrane_puts_the_neuron_in_front_of_the_branch() -> None:
    assert isinstance(entry("membrane", LIF), LIF)
    assert ending("membrane", LIF) == (None, False)


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
def test_the_branch_sees_what_the_entry_gives_and_adds_the_input(shortcut) -> None:
    x, residual = steps(3, 2, 4, 5, 5), Residual(nn.Identity(), shortcut=shortcut, neuron_fn=LIF)
    residual.branch.forward = lambda y, added: 3 * y + added
    assert torch.equal(residual(x), 3 * (LIF()(x) if shortcut == "membrane" else x) + x)


def build_branch(kind: str, end: Ending) -> nn.Module:
    if kind == "mlp":
        return SpikingMLP(8, 16, neuron=LIF(), ending=end)
    if kind == "sep_conv":
        return SepConv(8, neuron=LIF(), ending=end)
    if kind in ATTENTIONS:
        return qk_attention(kind, 8, 2, neuron_fn=LIF, attention_neuron_fn=LIF, ending=end)
    return sdsa(kind, 8, 2, neuron_fn=LIF, attention_neuron_fn=LIF, ending=end)


every_branch = pytest.mark.parametrize("kind", ["mlp", "sep_conv", *ATTENTIONS, *SDSA])


@pytest.mark.parametrize("shortcut", ["spike_add", "membrane"])
@every_branch
def test_every_branch_adds_in_its_last_op(kind: str, shortcut) -> None:
    branch = lively(build_branch(kind, ending(shortcut, LIF))).eval()
    x, added = spike_steps(3, 2, 8, 4, 5), spike_steps(3, 2, 8, 4, 5, seed=1)
    alone = branch(x)
    assert alone.any()
    torch.testing.assert_close(branch(x, added), alone + added)


@every_branch
def test_a_vanilla_branch_fires_on_the_sum_of_its_membrane_and_the_shortcut(kind: str) -> None:
    branch = lively(build_branch(kind, Ending(None))).eval()
    x, added = spike_steps(3, 2, 8, 4, 5), spike_steps(3, 2, 8, 4, 5, seed=1)
    expected = LIF()(branch(x) + added)
    last = next(part for part in reversed(list(branch.modules())) if isinstance(part, ConvUnit))
    last.neuron, last.adds_first = ending("vanilla", LIF)
    assert 0 < expected.mean() < 1
    assert torch.equal(branch(x, added), expected)


def test_an_unknown_shortcut_is_refused() -> None:
    check_shortcut("spike_add")
    with pytest.raises(ValueError, match="unknown shortcut 'sew'; wanted one of vanilla, spike_add, membrane"):
        check_shortcut("sew")


def test_drop_path_takes_the_branch_from_whole_samples_and_scales_up_the_others() -> None:
    residual = Residual(nn.Identity(), shortcut="membrane", neuron_fn=LIF, drop_path=0.25)
    residual.branch.forward = lambda y, added=0: torch.ones_like(y) + added
    x = steps(3, 400, 2, 2, 2)
    difference = residual(x) - x
    dropped = (difference.abs() < 1e-4).flatten(2).all(-1)  # [T, B]
    assert torch.equal(dropped.any(0), dropped.all(0))
    assert 0.15 < dropped.float().mean() < 0.35
    torch.testing.assert_close(difference[~dropped], torch.full_like(difference[~dropped], 1 / 0.75))
    assert torch.equal(residual.eval()(x), x + 1)


@pytest.mark.parametrize(("rate", "shortcut"), [(1.0, "membrane"), (-0.1, "membrane"), (0.1, "vanilla")])
def test_a_drop_path_without_meaning_is_refused(rate: float, shortcut) -> None:
    with pytest.raises(ValueError, match=f"drop_path is {rate}"):
        Residual(nn.Identity(), shortcut=shortcut, neuron_fn=LIF, drop_path=rate)
