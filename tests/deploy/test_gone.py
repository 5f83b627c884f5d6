"""Folding, quantising and simulating lose no hook and no forward without a word."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from spimm.deploy import fold, run_causal, run_closed_form, run_event_driven, run_stepwise
from spimm.layers import ConvNeuron, ConvNormNeuron, SpikeConv2d, quantised, quantised_weights
from spimm.neurons import LIF, MultiLIF, RelPSP

from ..train.families import tiny_model
from .conftest import settled, tiny

X = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize("part", ["conv", "norm"])
def test_a_hook_on_what_is_folded_away_is_refused(part: str) -> None:
    model = tiny()
    handle = model.get_submodule(f"stages.0.embed.units.1.{part}").register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=rf"'stages.0.embed.units.1.{part}' .* has hooks and would be folded away"):
        fold(model)
    handle.remove()
    fold(model)


@torch.no_grad()
def test_hooks_on_units_blocks_and_neurons_go_along() -> None:
    model, seen = tiny(), []
    names = [
        "stages.0.embed.units.1",
        "stages.0.embed.units.1.neuron",
        "stages.2.blocks.0",
        "stages.2.blocks.0.attention.branch.core.neuron",
    ]
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output, name=name: seen.append(name))
    folded = fold(model)
    seen.clear()
    logits = folded(X)
    assert seen == [names[1], names[0], *reversed(names[2:])]
    assert isinstance(folded.get_submodule(names[0]), ConvNeuron)
    plain = tiny()
    plain.load_state_dict(model.state_dict())
    torch.testing.assert_close(logits, fold(plain)(X))


class Doubled(SpikeConv2d):
    """A convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Unit(ConvNormNeuron):
    """A unit with a forward of its own."""

    def forward(self, x: Tensor, num_steps: int | None = None, *, added: Tensor | None = None) -> Tensor:
        return super().forward(2 * x, num_steps, added=added)


def test_a_forward_that_no_rule_knows_is_refused() -> None:
    inner = settled(ConvNormNeuron(3, 4, 3, neuron=LIF()))
    inner.conv = Doubled(3, 4, 3)
    with pytest.raises(ValueError, match=r"'0.conv' \(Doubled\) has a forward of its own"):
        fold(nn.Sequential(inner))
    with pytest.raises(ValueError, match=r"'0' \(Unit\) has a forward of its own"):
        fold(nn.Sequential(settled(Unit(3, 4, 3, neuron=LIF()))))


@torch.no_grad()
def test_a_parametrised_convolution_folds_to_what_it_computes() -> None:
    unit = settled(ConvNormNeuron(3, 4, 3, neuron=None)).double()
    parametrizations.weight_norm(unit.conv)
    unit.conv.parametrizations.weight.original0.mul_(1.5)
    x = torch.rand(1, 2, 3, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(fold(nn.Sequential(unit))(x), unit(x))


@pytest.mark.parametrize("computed", [lambda m: prune.l1_unstructured(m, "weight", 0.5), parametrizations.weight_norm])
def test_weights_that_are_computed_are_not_quantised(computed: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    computed(model[0])
    with pytest.raises(ValueError, match=r"weight of '0' is computed"):
        quantised_weights(model)
    with pytest.raises(ValueError, match="make it permanent"), quantised(model, 4):
        pass


def test_a_pruned_convolution_uses_its_mask_in_a_unit() -> None:
    unit = ConvNormNeuron(3, 4, 3, neuron=LIF())
    prune.l1_unstructured(unit.norm, "weight", amount=2)
    with torch.no_grad():
        unit.norm.weight_orig.fill_(5.0)
    unit(torch.rand(2, 2, 3, 5, 5))
    assert int((unit.norm.weight == 5).sum()) == 2


@pytest.mark.parametrize("run", [run_causal, run_event_driven, lambda m, x: run_stepwise(m, x, 0.25)])
def test_a_simulation_refuses_hooks_that_it_would_not_run(run: Any) -> None:
    model, x = tiny_model("ttfs", exact=False), torch.rand(1, 1, 8, 8)
    neuron = next(module for module in model.modules() if isinstance(module, RelPSP))
    handle = neuron.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match=r"RelPSP of stages.0.1 has hooks, which a simulation does not run"):
        run(model, x)
    assert run_closed_form(model, x).logits.shape == (1, 10)
    handle.remove()
    run(model, x)


def test_a_step_of_a_neuron_with_its_own_forward_alone_is_refused() -> None:
    class Louder(LIF):
        def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
            return super().forward(2 * x, num_steps)

    class Both(Louder):
        def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
            return super().step(2 * x, state)

    with pytest.raises(NotImplementedError, match=r"define Louder.step as well"):
        Louder().step(torch.rand(3))
    block, x = MultiLIF(Both(), (0.5, 1.0)), torch.rand(4, 2, 3, 5, 5)
    state, steps = None, []
    for now in x:
        y, state = block.step(now, state)
        steps.append(y)
    assert torch.equal(torch.stack(steps), block(x))
