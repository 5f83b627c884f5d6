"""Training with weights of few bits: what is trained, evaluated, saved, resumed, and what it gains."""

import signal
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spimm.data import ImageData, load_data
from spimm.deploy import quantise
from spimm.layers import set_quantised
from spimm.tasks import Classify
from spimm.train import (
    Recipe,
    TrainResult,
    apply_overrides,
    build_loader,
    evaluate,
    load_recipe,
    load_run,
    read_checkpoint,
    train,
)

from .conftest import TinyNet, signal_at
from .test_resume import assert_same_run


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()))


def score(model: nn.Module, recipe: Recipe, data: ImageData) -> dict[str, Any]:
    task = Classify(data.num_classes, label_smoothing=recipe.label_smoothing)
    return evaluate(model, build_loader(recipe, data, train=False), task, device="cpu")


SETTINGS = {
    "layer": {"weight_bits": 3},
    "channel": {"weight_bits": 2, "weight_bits_per": "channel"},
    "averaged": {"weight_bits": 3, "ema_decay": 0.9},
    "bf16": {"weight_bits": 3, "precision": "bf16"},
}


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_run_with_few_bits_stopped_and_resumed_equals_one_that_was_not(
    setting: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, **SETTINGS[setting])
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(recipe, whole, data).completed
    assert run(recipe, parts, data, signal_at(7, signal.SIGINT)).step == 7
    assert run(recipe, parts, data).completed
    assert_same_run(whole, parts)


@pytest.mark.parametrize("setting", ["layer", "channel", "averaged"])
def test_evaluation_sees_quantised_weights_and_the_checkpoint_holds_those_that_are_trained(
    setting: str, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    recipe = replace(recipe, **SETTINGS[setting], epochs=1)
    result = run(recipe, tmp_path, data)
    saved = read_checkpoint(result.last_checkpoint)
    for prefix, weights in (("", saved.model), ("ema_", saved.ema)):
        if weights:
            model = TinyNet()
            assert weights.keys() == model.state_dict().keys()
            model.load_state_dict(weights)
            assert score(model, recipe, data)["loss"] != result.metrics[f"{prefix}loss"]
            set_quantised(model, recipe.weight_bits, recipe.weight_bits_per)
            assert score(model, recipe, data)["loss"] == result.metrics[f"{prefix}loss"]


def test_every_forward_and_backward_pass_sees_few_values_and_trains_the_weights_behind_them(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    seen: list[int] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        seen.append(module.conv.weight.unique().numel())

    model = TinyNet()
    model.register_forward_pre_hook(note)
    run(replace(recipe, weight_bits=2), tmp_path, data, model)
    assert len(seen) == 15 + 3 * 3 and max(seen) <= 3
    assert model.conv.weight.unique().numel() > 40
    assert not torch.equal(model.conv.weight, TinyNet().conv.weight)


def test_training_without_few_bits_is_another_training(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    losses = [
        run(replace(recipe, weight_bits=bits), tmp_path / str(bits), data).metrics["loss"] for bits in (None, 8, 2)
    ]
    assert len(set(losses)) == 3
    assert abs(losses[1] - losses[0]) < abs(losses[2] - losses[0])


def test_a_run_with_other_bits_is_not_resumed(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    run(replace(recipe, weight_bits=4), tmp_path, data, signal_at(4, signal.SIGINT))
    with pytest.raises(ValueError, match=r"another recipe: weight_bits was 4, now None"):
        run(recipe, tmp_path, data)


@pytest.mark.parametrize(("change", "text"), [(1, "got 1"), (9, "got 9"), (0, "got 0")])
def test_bits_out_of_range_are_refused(change: int, text: str, recipe: Recipe) -> None:
    with pytest.raises(ValueError, match=f"weight_bits must be None or 2 to 8, {text}"):
        replace(recipe, weight_bits=change)


def test_another_sharing_of_scales_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ValueError, match="weight_bits_per must be layer or channel, got 'row'"):
        replace(recipe, weight_bits_per="row")


def test_fine_tuning_gains_back_what_few_bits_cost_on_digits(tmp_path: Path) -> None:
    digits = load_data("digits")
    base = ["warmup_epochs=0", "batch_size=64", "tensorboard=false", "device=cpu", "model_options.num_steps=1"]
    floats = apply_overrides(load_recipe("digits"), [*base, "epochs=4", "lr=0.005"])
    tuned = apply_overrides(floats, ["epochs=2", "lr=0.001", "weight_bits=2", f"init_from={tmp_path / 'floats'}"])
    quiet = Console(file=StringIO())
    trained = train(floats, tmp_path / "floats", data=digits, console=quiet)
    _, model = load_run(tmp_path / "floats")
    rounded = score(quantise(model, 2), floats, digits)["top1"]
    found = train(tuned, tmp_path / "tuned", data=digits, console=quiet).best
    assert rounded < trained.best["top1"] - 10
    assert found["top1"] > rounded + 10
    recipe, loaded = load_run(tmp_path / "tuned")
    assert all(part.weight.unique().numel() <= 3 for part in loaded.modules() if isinstance(part, nn.Conv2d))
    assert score(loaded, recipe, digits)["top1"] == found["top1"]
