import os
import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spimm.data import ImageData
from spimm.models import create_model
from spimm.neurons import IF, LIF
from spimm.train import Recipe, TrainResult, read_log, train
from spimm.train.rates import RatePenalty

from .conftest import TinyNet
from .test_health import SpikingNet
from .test_resume import assert_same_run


def rate_of(model: nn.Module, penalty: RatePenalty, x: Tensor) -> Tensor:
    with penalty.watch(model):
        model(x)
    return penalty.loss()


def test_the_price_is_that_of_the_formula() -> None:
    x = torch.zeros(2, 4, 3, 5, 5)
    x[:, :, 0] = 2.0  # fires at every step; the other channels never do
    for upper, lower in ((1.0, 0.0), (0.2, 0.0), (1.0, 0.1), (0.05, 0.05)):
        wanted = max(0.0, 1 / 3 - upper) ** 2 + 2 / 3 * lower**2
        assert rate_of(IF(), RatePenalty(7.0, upper, lower), x).item() == pytest.approx(7 * wanted, abs=1e-6)


def test_the_price_is_the_mean_over_layers() -> None:
    model = SpikingNet()
    model.set_bias("first", 50.0)
    model.set_bias("second", -50.0)
    price = rate_of(model, RatePenalty(1.0, 0.5, 0.5), torch.randn(3, 1, 6, 6))
    assert price.item() == pytest.approx((0.5**2 + 0.5**2) / 2)


@pytest.mark.parametrize(("bounds", "sign"), [((0.1, 0.0), 1), ((1.0, 0.9), -1)])
def test_its_gradient_lowers_a_rate_above_the_bound_and_raises_one_below(
    bounds: tuple[float, float], sign: int
) -> None:
    x = torch.full((4, 2, 3, 4, 4), 1.2, requires_grad=True)  # fires at the third step of four
    rate_of(LIF(), RatePenalty(1.0, *bounds), x).backward()
    assert x.grad is not None
    assert (sign * x.grad >= 0).all() and (sign * x.grad).sum() > 0


def test_hooks_go_and_evaluation_is_not_watched() -> None:
    model, penalty = SpikingNet(), RatePenalty(1.0, 0.1)
    with penalty.watch(model):
        with torch.no_grad():
            model(torch.randn(2, 1, 6, 6))
        assert not penalty._rates
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("model", [TinyNet(), create_model("ttfs_mnist_cnn", convs="4", hidden="8")])
def test_a_model_whose_neurons_have_no_rates_is_refused(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"rate_weight is for neurons that fire at steps, \w+ has none"):
        rate_of(model, RatePenalty(1.0, 0.1), torch.zeros(1, 1, 28, 28))


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or SpikingNet(), console=Console(file=StringIO()))


def last_rate(out: Path) -> float:
    return [record["rate"] for record in read_log(out / "log.jsonl") if record["kind"] == "health"][-1]


def test_training_with_the_price_fires_less(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    recipe = replace(recipe, epochs=8)
    run(recipe, tmp_path / "free", data)
    run(replace(recipe, rate_weight=100.0, rate_upper=0.02), tmp_path / "priced", data)
    assert last_rate(tmp_path / "priced") < 0.7 * last_rate(tmp_path / "free")


def test_a_lower_bound_wakes_a_layer_that_is_nearly_silent(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    rates = {}
    for weight in (0.0, 1000.0):
        model = SpikingNet()
        model.set_bias("first", -2.0)
        model.set_bias("second", -2.0)
        settings = {"rate_weight": weight, "rate_upper": 1.0, "rate_lower": 0.2}
        run(replace(recipe, epochs=8, lr=5e-2, **settings), tmp_path / str(weight), data, model)
        rates[weight] = last_rate(tmp_path / str(weight))
    assert rates[1000.0] > 1.5 * rates[0.0]


@pytest.mark.parametrize("settings", [{}, {"precision": "bf16"}, {"accumulate": 2}], ids=["plain", "bf16", "pieces"])
def test_a_priced_run_stopped_and_resumed_equals_one_that_was_not(
    settings: dict[str, object], recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, rate_weight=10.0, rate_upper=0.05, rate_lower=0.01, **settings)
    run(recipe, tmp_path / "whole", data)
    model, steps = SpikingNet(), []

    def stop(module: SpikingNet, inputs: object) -> None:
        steps.append(module.training)
        if module.training and sum(steps) == 7 * recipe.accumulate:
            os.kill(os.getpid(), signal.SIGINT)

    model.register_forward_pre_hook(stop)
    assert run(recipe, tmp_path / "parts", data, model).step == 7
    assert run(recipe, tmp_path / "parts", data).completed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("v_reset", [0.0, None])
@pytest.mark.parametrize("threshold", [0.25, 0.5, 2.0])
def test_a_learnt_threshold_behind_a_batch_norm_adds_no_function(threshold: float, v_reset: float | None) -> None:
    """LIF of threshold s on y fires as LIF of threshold 1 on y / s, and y / s is a batch norm with gamma / s, beta / s:
    a threshold learnt besides the affine parameters reaches nothing that they do not reach. Powers of two are exact."""
    torch.manual_seed(0)
    x, norm, scaled = torch.randn(16, 6, 5, 5), nn.BatchNorm2d(6).eval(), nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 4)
        norm.bias.uniform_(-1, 2)
        scaled.weight.copy_(norm.weight / threshold)
        scaled.bias.copy_(norm.bias / threshold)
    one, other = LIF(threshold=threshold, v_reset=v_reset), LIF(threshold=1.0, v_reset=v_reset)
    spikes = one(norm(x).unflatten(0, (4, 4)))
    assert 0 < spikes.mean() < 1
    assert torch.equal(spikes, other(scaled(x).unflatten(0, (4, 4))))
