import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from spimm.data import ImageData, load_data
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
