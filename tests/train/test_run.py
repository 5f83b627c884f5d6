import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from spimm.data import Augment, ImageData, load_data
from spimm.models import ModelCard, register_model, registry
from spimm.tasks import Classify
from spimm.train import Recipe, apply_overrides, build_loader, evaluate, load_recipe, load_run, train

from .conftest import TinyNet


@pytest.fixture(scope="module")
def few_digits() -> ImageData:
    digits = load_data("digits")
    return replace(digits, train=digits.train.subset(range(64)), test=digits.test.subset(range(32)))


@pytest.fixture
def settings() -> Recipe:
    changes = ["epochs=2", "warmup_epochs=0", "batch_size=32", "tensorboard=false", "device=cpu", "ema_decay=0.5"]
    return apply_overrides(load_recipe("digits"), changes)


def test_a_finished_run_loads_back_and_repeats_its_best_result(
    settings: Recipe, few_digits: ImageData, tmp_path: Path
) -> None:
    result = train(settings, tmp_path, data=few_digits, console=Console(file=StringIO()))
    recipe, model = load_run(tmp_path)
    assert recipe == settings
    assert not model.training
    measured = evaluate(model, build_loader(recipe, few_digits, train=False), Classify(10), device="cpu")
    assert measured["loss"] == pytest.approx(result.best["ema_loss"])
    assert measured["top1"] == result.best["ema_top1"]


def test_model_options_of_a_run_may_change(settings: Recipe, few_digits: ImageData, tmp_path: Path) -> None:
    train(settings, tmp_path, data=few_digits, console=Console(file=StringIO()))
    recipe, _ = load_run(tmp_path, which="last", model_options={"num_steps": 2})
    assert recipe == replace(settings, model_options={**settings.model_options, "num_steps": 2})


def test_a_folder_without_a_run_or_without_the_checkpoint_is_named(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    with pytest.raises(FileNotFoundError, match=r"holds no training run: it has no recipe\.json"):
        load_run(tmp_path)

    def crash(*_: object) -> None:
        raise OSError("the machine went away")

    model = TinyNet()
    model.register_forward_pre_hook(crash)
    with pytest.raises(OSError, match="went away"):
        train(recipe, tmp_path, data=data, model=model, console=Console(file=StringIO()))
    with pytest.raises(FileNotFoundError, match="has no best checkpoint yet"):
        load_run(tmp_path)


def test_data_with_other_frames_than_the_recipe_is_refused(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must have the recipe's frames=4, shades has None"):
        train(replace(recipe, frames=4), tmp_path, data=data, model=TinyNet(), console=Console(file=StringIO()))


def test_the_recipe_and_the_facts_of_the_data_are_written_beside_the_run(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    train(recipe, tmp_path, data=data, model=TinyNet(), console=Console(file=StringIO()))
    assert Recipe.from_json(json.loads((tmp_path / "recipe.json").read_text())) == recipe
    facts = json.loads((tmp_path / "data.json").read_text())
    assert (facts["num_classes"], facts["in_chans"], facts["image_size"]) == (3, 1, [6, 6])
    assert facts["class_names"] == ["dark", "grey", "bright"]


@pytest.fixture
def unit_card(monkeypatch: pytest.MonkeyPatch) -> ModelCard:
    """A registered TinyNet that takes pixels in [0, 1]."""
    monkeypatch.setattr(registry, "_models", dict(registry._models))
    card = ModelCard("unit", "t", "-", params=0, input_size=(1, 6, 6), num_classes=3, num_steps=1, unit_input=True)
    register_model(card, lambda num_classes, in_chans: TinyNet(num_classes))
    return card


@pytest.mark.parametrize("train_part", [True, False])
def test_a_model_of_unit_input_sees_pixels_between_0_and_1_and_others_standardised_ones(
    recipe: Recipe, data: ImageData, unit_card: ModelCard, train_part: bool
) -> None:
    recipe = replace(recipe, augment=Augment(), batch_size=20)
    standard, _ = next(iter(build_loader(recipe, data, train=train_part)))
    unit, _ = next(iter(build_loader(replace(recipe, model=unit_card.name), data, train=train_part)))
    assert 0 <= unit.min() < 0.1 and 0.7 < unit.max() <= 1
    assert standard.min() < -1
    torch.testing.assert_close(standard, (unit - 0.4) / 0.2)


def test_a_run_says_how_its_images_were_normalised(
    recipe: Recipe, data: ImageData, unit_card: ModelCard, tmp_path: Path
) -> None:
    for name, stated in (("tiny", ([0.4], [0.2])), (unit_card.name, ([0.0], [1.0]))):
        settings = replace(recipe, model=name, epochs=1)
        result = train(settings, tmp_path / name, data=data, model=TinyNet(), console=Console(file=StringIO()))
        facts = json.loads((tmp_path / name / "data.json").read_text())
        assert (facts["mean"], facts["std"]) == stated
    loaded, model = load_run(tmp_path / unit_card.name)
    measured = evaluate(model, build_loader(loaded, data, train=False), Classify(3), device="cpu")
    assert measured["loss"] == pytest.approx(result.best["loss"])
