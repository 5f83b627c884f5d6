import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spimm.train import Recipe
from spimm.train.optim import build_optimizer, learning_rate, set_learning_rate

from .conftest import TinyNet

RECIPE = Recipe(
    model="m",
    data="d",
    epochs=10,
    warmup_epochs=2,
    cooldown_epochs=1,
    lr=1.0,
    min_lr=0.1,
    warmup_lr=0.2,
    weight_decay=0.3,
)
STEPS = 5


def rate(step: int, recipe: Recipe = RECIPE) -> float:
    return learning_rate(recipe, step, steps_per_epoch=STEPS)


def test_the_warm_up_is_a_line_from_warmup_lr_to_lr() -> None:
    assert [rate(step) for step in range(11)] == pytest.approx([0.2 + 0.08 * step for step in range(11)])


def test_the_cosine_is_at_its_ends_and_its_middle_where_it_should_be() -> None:
    assert rate(10) == 1.0
    assert rate(30) == pytest.approx((1.0 + 0.1) / 2)
    assert rate(20) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2)
    assert rate(49) > rate(50) == 0.1


def test_the_cool_down_stays_at_min_lr() -> None:
    assert {rate(step) for step in range(50, 55)} == {0.1}


def test_the_rate_falls_after_the_warm_up_and_never_leaves_its_bounds() -> None:
    rates = [rate(step) for step in range(10, 55)]
    assert rates == sorted(rates, reverse=True)
    assert all(0.1 <= value <= 1.0 for value in rates)


def test_without_warm_up_the_first_step_has_the_full_rate_and_warm_up_may_last_to_the_end() -> None:
    assert rate(0, replace(RECIPE, warmup_epochs=0)) == 1.0
    assert rate(49, replace(RECIPE, warmup_epochs=10)) == pytest.approx(1.0 - 0.8 / 50)


STAIRS = replace(RECIPE, schedule="milestones", milestones=(4, 7), milestone_factor=0.4, cooldown_epochs=0)


def test_the_rate_falls_by_the_factor_at_the_first_step_of_each_milestone() -> None:
    rates = [rate(step, STAIRS) for step in range(10, 60)]
    assert rates == pytest.approx([1.0] * 10 + [0.4] * 15 + [0.16] * 25)


def test_the_warm_up_in_front_of_milestones_is_that_in_front_of_a_cosine() -> None:
    assert [rate(step, STAIRS) for step in range(10)] == [rate(step) for step in range(10)]
    at_once = replace(STAIRS, milestones=(2, 7))
    assert rate(9, at_once) == pytest.approx(0.92)
    assert rate(10, at_once) == pytest.approx(0.4)


class WithThreshold(nn.Module):
    """A neuron with a threshold for each channel and a scalar."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.ones(3, 1, 1))
        self.tau = nn.Parameter(torch.tensor(2.0))

    def no_weight_decay(self) -> set[str]:
        return {"threshold"}


def decays(model: nn.Module) -> dict[str, float]:
    optimizer = build_optimizer(model, RECIPE)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}


def test_kernels_and_matrices_decay_and_nothing_else_does() -> None:
    assert decays(TinyNet()) == {
        "conv.weight": 0.3,
        "conv.bias": 0.0,
        "norm.weight": 0.0,
        "norm.bias": 0.0,
        "head.weight": 0.3,
        "head.bias": 0.0,
    }


def test_modules_may_declare_parameters_without_decay() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(WithThreshold()))
    assert decays(model) == {"0.weight": 0.3, "0.bias": 0.0, "1.0.threshold": 0.0, "1.0.tau": 0.0}
    assert decays(WithThreshold()) == {"threshold": 0.0, "tau": 0.0}


def steps(name: str, gradients: list[float], **settings: float) -> list[float]:
    """A weight of 2 after each of its steps of rate 0.1."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = build_optimizer(model, replace(RECIPE, optimizer=name, **settings))
    weights = []
    for gradient in gradients:
        for group in optimizer.param_groups:
            group["lr"] = 0.1
        model.weight.grad = torch.full_like(model.weight, gradient)
        optimizer.step()
        weights.append(model.weight.item())
    return weights


def test_sgd_has_momentum_and_adds_decay_to_the_gradient() -> None:
    first = 2.0 - 0.1 * (1.0 + 0.3 * 2.0)
    assert steps("sgd", [1.0], momentum=0.0) == pytest.approx([first])
    second = first - 0.1 * (0.9 * (1.0 + 0.3 * 2.0) + 0.5 + 0.3 * first)
    assert steps("sgd", [1.0, 0.5]) == pytest.approx([first, second])
    assert steps("sgd", [1.0, 0.0], momentum=0.5, weight_decay=0.0) == pytest.approx([1.9, 1.85])


def test_adam_adds_decay_to_the_gradient_where_adamw_shrinks_the_weight() -> None:
    # Adam's first step is the sign of the gradient, here 0.5 with and without 0.3 times the weight.
    assert steps("adam", [0.5]) == pytest.approx([1.9])
    assert steps("adam", [-0.5]) == pytest.approx([1.9])  # -0.5 + 0.6 is positive
    assert steps("adam", [-0.5], weight_decay=0.0) == pytest.approx([2.1])
    assert steps("adamw", [0.5]) == pytest.approx([2.0 * (1 - 0.1 * 0.3) - 0.1])
    assert steps("adam", [0.5, 2.0], weight_decay=0.0) == steps("adamw", [0.5, 2.0], weight_decay=0.0)


def lamb_step(first: float, gradient: float) -> Tensor:
    """A matrix of 4 equal weights after LAMB's first step of rate 0.5, without decay of its own."""
    model = nn.Linear(2, 2, bias=False)
    nn.init.constant_(model.weight, first)
    optimizer = build_optimizer(model, replace(RECIPE, optimizer="lamb", weight_decay=0.01))
    optimizer.param_groups[0]["lr"] = 0.5
    model.weight.grad = torch.full_like(model.weight, gradient)
    optimizer.step()
    return model.weight.detach()


def test_lamb_scales_the_step_by_the_norm_of_the_weights_up_to_one() -> None:
    # Adam's first step is the sign of the gradient, decay adds 0.01 w: an update u = 1 + 0.01 w, whose norm is 2 u
    small, update = 0.2, 1 + 0.01 * 0.2
    torch.testing.assert_close(lamb_step(small, 1.0), torch.full((2, 2), small - 0.5 * (small / update) * update))
    large, update = 3.0, 1 + 0.01 * 3.0
    torch.testing.assert_close(lamb_step(large, 1.0), torch.full((2, 2), large - 0.5 * update))


def test_lamb_does_not_clip_gradients_by_itself() -> None:
    model = nn.Linear(2, 2, bias=False)
    optimizer = build_optimizer(model, replace(RECIPE, optimizer="lamb"))
    model.weight.grad = torch.full_like(model.weight, 100.0)
    optimizer.step()
    torch.testing.assert_close(optimizer.state[model.weight]["exp_avg"], torch.full((2, 2), 10.0))


@pytest.mark.parametrize("name", ["lamb", "adam", "sgd"])
def test_every_optimiser_decays_what_adamw_decays(name: str) -> None:
    adamw, another = (build_optimizer(TinyNet(), replace(RECIPE, optimizer=kind)) for kind in ("adamw", name))
    for one, other in zip(adamw.param_groups, another.param_groups, strict=True):
        assert one["weight_decay"] == other["weight_decay"]
        assert [p.shape for p in one["params"]] == [p.shape for p in other["params"]]


def test_a_step_without_gradient_signal_only_shrinks_what_decays() -> None:
    model = TinyNet()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = build_optimizer(model, RECIPE)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.head.weight.detach(), before["head.weight"] * (1 - 0.5 * 0.3))
    assert torch.equal(model.head.bias, before["head.bias"])


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_share_of_the_mean_of_each_neurons_step_is_kept(optimizer: str) -> None:
    def steps(**settings: Any) -> tuple[Tensor, Tensor]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(5, 3)
        start = layer.weight.detach().clone()
        recipe = Recipe(model="m", data="d", optimizer=optimizer, weight_decay=0.0, **settings)
        layer(torch.rand(7, 5)).square().sum().backward()
        build_optimizer(layer, recipe).step()
        return layer.weight.detach() - start, layer.bias.detach()

    whole, bias = steps()
    damped, same_bias = steps(mean_share=0.25)
    mean = whole.mean(1, keepdim=True)
    torch.testing.assert_close(damped, whole - 0.75 * mean)
    assert mean.abs().min() > 0 and torch.equal(bias, same_bias)


class Layered(nn.Module):
    """Three layers, of which it tells the depths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)

    def layer_depths(self) -> dict[str, int]:
        names = ["stem", "block", "head"]
        return {name: names.index(name.split(".")[0]) for name, _ in self.named_parameters()}


def test_layer_decay_lowers_the_rate_from_each_layer_to_the_one_before_it() -> None:
    model = Layered()
    optimizer = build_optimizer(model, replace(RECIPE, layer_decay=0.5))
    set_learning_rate(optimizer, 0.8)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        names[id(p)]: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    rates = {"stem": 0.2, "block": 0.4, "head": 0.8}
    assert found == {
        f"{layer}.{part}": (pytest.approx(rate), decay)
        for layer, rate in rates.items()
        for part, decay in (("weight", 0.3), ("bias", 0.0))
    }


def test_without_layer_decay_there_are_two_groups_with_the_rate_itself() -> None:
    optimizer = build_optimizer(Layered(), RECIPE)
    set_learning_rate(optimizer, 0.8)
    assert [group["lr"] for group in optimizer.param_groups] == [0.8, 0.8]
    assert "lr_scale" not in optimizer.param_groups[0]


def test_layer_decay_wants_a_model_that_tells_of_its_layers() -> None:
    with pytest.raises(
        ValueError, match=r"layer_decay must be 1 for a model without layer_depths, got 0\.9 for Linear"
    ):
        build_optimizer(nn.Linear(2, 2), replace(RECIPE, layer_decay=0.9))
