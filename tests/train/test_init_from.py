import signal
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from spimm.data import ImageData, ImageSplit, load_data
from spimm.data.held_out import hold_out
from spimm.models import save_weights
from spimm.train import Recipe, TrainResult, apply_overrides, load_recipe, load_run, load_weights, train

from .conftest import TinyNet, signal_at
from .test_resume import assert_same_run


def run(recipe: Recipe, out: Path, data: ImageData, model: nn.Module | None = None) -> TrainResult:
    return train(recipe, out, data=data, model=model or TinyNet(), console=Console(file=StringIO()))


def starts(model: nn.Module) -> list[dict[str, Tensor]]:
    """Fills with the weights that the model has when it sees its first training batch."""
    seen: list[dict[str, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor]) -> None:
        if not seen:
            seen.append({name: tensor.clone() for name, tensor in module.state_dict().items()})

    model.register_forward_pre_hook(note)
    return seen


@pytest.fixture
def first(recipe: Recipe, data: ImageData, tmp_path: Path) -> Path:
    """A run with averaged weights whose last epoch was not its best."""
    held = hold_out(data, 0.2, 0)
    result = run(replace(recipe, ema_decay=0.9, epochs=6, lr=0.5, val_share=0.2), tmp_path / "first", held)
    assert result.best["epoch"] < result.epoch
    return tmp_path / "first"


SOURCES: dict[str, Callable[[Path], Path]] = {
    "run": lambda run: run,
    "best": lambda run: run / "checkpoints" / "best",
    "last": lambda run: run / "checkpoints" / "last",
    "file": lambda run: run / "checkpoints" / "last" / "model.safetensors",
}


@pytest.mark.parametrize("source", SOURCES)
def test_training_starts_from_the_weights_of_a_run_a_checkpoint_or_a_file(
    source: str, first: Path, recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    path = SOURCES[source](first)
    held = {"run": "best/ema", "best": "best/ema", "last": "last/ema", "file": "last/model"}[source]
    wanted = TinyNet()
    load_weights(wanted, first / "checkpoints" / f"{held}.safetensors")
    model = TinyNet()
    seen = starts(model)
    run(replace(recipe, init_from=str(path)), tmp_path / "second", data, model)
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(seen[0][name], tensor), name


@pytest.mark.parametrize("settings", [{}, {"optimizer": "lamb"}], ids=["adamw", "lamb"])
def test_a_run_that_goes_on_does_not_start_again_even_where_its_start_is_gone(
    settings: dict[str, Any], recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    source = TinyNet()
    nn.init.normal_(source.head.weight)
    path = save_weights(source, tmp_path / "start.safetensors")
    recipe = replace(recipe, init_from=str(path), **settings)
    assert run(recipe, tmp_path / "whole", data).completed
    assert run(recipe, tmp_path / "parts", data, signal_at(7, signal.SIGINT)).step == 7
    path.unlink()
    assert run(recipe, tmp_path / "parts", data).completed
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_model_trained_in_one_step_goes_on_in_four(tmp_path: Path) -> None:
    digits = load_data("digits")
    few = replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(16)))
    changes = ["epochs=1", "warmup_epochs=0", "batch_size=16", "log_every=1", "tensorboard=false", "device=cpu"]
    base = apply_overrides(load_recipe("digits"), [*changes, "model_options.num_steps=1"])
    train(base, tmp_path / "one", data=few, console=Console(file=StringIO()))
    tuned = apply_overrides(base, ["model_options.num_steps=4", f"init_from={tmp_path / 'one'}", "optimizer=lamb"])
    train(
        replace(tuned, lr=1e-9, min_lr=0.0, warmup_lr=0.0),
        tmp_path / "four",
        data=few,
        console=Console(file=StringIO()),
    )
    (_, one), (recipe, four) = (load_run(tmp_path / name) for name in ("one", "four"))
    assert recipe.model_options["num_steps"] == 4
    for (name, before), after in zip(one.named_parameters(), four.parameters(), strict=True):
        torch.testing.assert_close(after, before, msg=name)
    images = torch.rand(2, 1, 8, 8)
    assert not torch.equal(one(images), four(images))


def test_a_run_on_other_classes_starts_with_a_new_classifier_and_layer_wise_rates(tmp_path: Path, caplog) -> None:
    digits = load_data("digits")
    few = replace(digits, train=digits.train.subset(range(32)), test=digits.test.subset(range(16)))
    changes = ["epochs=1", "warmup_epochs=0", "batch_size=16", "log_every=1", "tensorboard=false", "device=cpu"]
    base = apply_overrides(load_recipe("digits"), [*changes, "model_options.num_steps=1"])
    train(base, tmp_path / "ten", data=few, console=Console(file=StringIO()))
    two = [replace(part, labels=part.labels % 2) for part in (few.train, few.test)]
    parity = replace(few, train=two[0], test=two[1], class_names=("even", "odd"))
    tuned = apply_overrides(base, [f"init_from={tmp_path / 'ten'}", "layer_decay=0.5"])
    slow = replace(tuned, lr=1e-9, min_lr=0.0, warmup_lr=0.0)
    train(slow, tmp_path / "two", data=parity, console=Console(file=StringIO()))
    (said,) = [message for message in caplog.messages if "left out" in message]
    assert said.endswith("model.safetensors: head left out, of other classes than the model, whose own is new")
    (_, before), (_, after) = (load_run(tmp_path / name) for name in ("ten", "two"))
    assert after.head.weight.shape[0] == 2
    for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True):
        if not name.startswith("head."):
            torch.testing.assert_close(new, old, msg=name)


def test_a_network_of_spike_times_starts_from_the_weights_of_its_relu1_twin(tmp_path: Path) -> None:
    images = torch.randint(256, (8, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    split = ImageSplit(images, torch.arange(8))
    level = (0.5,) * 3
    data = ImageData("noise", split, split, class_names=tuple("01234567"), mean=level, std=level, note="made here")
    small = ["model_options.image_size=8", "model_options.convs=8,M,8,M", "model_options.hidden=16,16", "batch_size=8"]
    small += ["epochs=1", "augment.cutout=2", "tensorboard=false", "device=cpu"]
    twin = apply_overrides(load_recipe("ttfs_vgg11_cifar10_ann"), small)
    train(twin, tmp_path / "ann", data=data, console=Console(file=StringIO()))
    start = ["lr=1e-9", "warmup_lr=0", f"init_from={tmp_path / 'ann'}"]
    tuned = apply_overrides(load_recipe("ttfs_vgg11_cifar10"), [*small, *start])
    train(tuned, tmp_path / "ttfs", data=data, console=Console(file=StringIO()))
    (_, ann), (_, ttfs) = (load_run(tmp_path / name) for name in ("ann", "ttfs"))
    for (name, before), (same, after) in zip(ann.named_parameters(), ttfs.named_parameters(), strict=True):
        assert name == same
        torch.testing.assert_close(after, before, msg=name)
    images = torch.rand(2, 3, 8, 8)
    assert not torch.equal(ann(images), ttfs(images))


def test_a_start_that_is_absent_is_named_before_anything_is_written(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"init_from must be a run, .* there is no nowhere/at/all"):
        run(replace(recipe, init_from="nowhere/at/all"), tmp_path / "run", data)
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"begun has no best checkpoint yet"):
        run(replace(recipe, init_from=str(tmp_path / "begun")), tmp_path / "run", data)
    assert not (tmp_path / "run").exists()


def test_a_start_that_does_not_fit_is_named_before_anything_is_written(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    path = save_weights(TinyNet(num_classes=4), tmp_path / "four.safetensors")
    model = TinyNet()
    with pytest.raises(
        ValueError, match=r"four\.safetensors does not fit TinyNet; .*head\.weight \(4, 6\), expected \(3, 6\)"
    ):
        run(replace(recipe, init_from=str(path)), tmp_path / "run", data, model)
    assert model.training_steps == 0
    assert not (tmp_path / "run").exists()
