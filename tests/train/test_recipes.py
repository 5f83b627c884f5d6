import json
import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from spimm.data import ImageData, ImageSplit
from spimm.models import model_card
from spimm.models.qkformer import CIFAR10_DVS_ABLATIONS, CIFAR100_ABLATIONS
from spimm.models.resnet import TABLES
from spimm.train import (
    Recipe,
    apply_overrides,
    build_loader,
    build_model,
    describe_recipe,
    list_recipes,
    load_recipe,
    recipe_facts,
    train,
)
from spimm.train.optim import build_optimizer, learning_rate

from .conftest import TinyNet

LARGEST = 2_000_000
"""Parameters of a model that takes a step in a moment."""


def test_the_recipes_are_those_of_the_files_of_the_folder() -> None:
    assert {"digits", "mnist", "nmnist", "cifar10_jpeg", "qkformer_cifar"} <= set(list_recipes())
    assert {f"cifar100_{row}" for row in TABLES} <= set(list_recipes())
    assert "cifar100_spk" not in list_recipes()


@pytest.mark.parametrize("row", TABLES)
def test_a_row_of_the_tables_has_a_recipe_with_its_options_and_the_accuracy_printed_there(row: str) -> None:
    recipe, text = load_recipe(f"cifar100_{row}"), describe_recipe(f"cifar100_{row}")
    assert recipe.model_options == TABLES[row].options
    assert f"Expected: published {TABLES[row].top1} % top-1 (Table {TABLES[row].table})" in text
    assert text.count("Expected") == 1


@pytest.mark.parametrize(
    "name", [name for name in list_recipes() if name.startswith("ttfs_vgg") and name[-4:] != "_ann"]
)
def test_a_network_of_spike_times_starts_from_the_run_of_its_twin_on_the_same_data(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.init_from is not None
    twin = load_recipe(recipe.init_from.removeprefix("runs/"))
    assert (twin.model, twin.data, twin.augment) == (f"{recipe.model}_ann", recipe.data, recipe.augment)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_loads_under_its_own_name_and_survives_json(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe


def networks() -> list[str]:
    """One name of the recipes of each network."""
    first: dict[str, str] = {}
    for name in list_recipes():
        recipe = load_recipe(name)
        first.setdefault(json.dumps([recipe.model, recipe.model_options, recipe.frames], sort_keys=True), name)
    return list(first.values())


@pytest.mark.parametrize("name", networks())
def test_every_recipe_has_a_model_with_its_options(name: str) -> None:
    recipe = load_recipe(name)
    with torch.device("meta"):
        model = build_model(recipe, noise(recipe))
    assert model.num_steps == (recipe.frames or recipe.model_options.get("num_steps", model.num_steps))
    assert all(weight.is_meta for weight in model.parameters())


def small(recipe: Recipe) -> Recipe:
    """The same run, of one step of two images and, of events, two frames."""
    settings = ["epochs=1", "warmup_epochs=0", "cooldown_epochs=0", "batch_size=2", "num_workers=0", "device=cpu"]
    fewer = [] if recipe.frames is None else ["frames=2"]
    usual = ["interpolation=bilinear", "crop_fraction=0.875", "tensorboard=false", "log_every=1", "init_from=none"]
    return apply_overrides(recipe, [*settings, *fewer, *usual, "augment.crop_scale=none", "teacher=none"])


def noise(recipe: Recipe) -> ImageData:
    """Two random images of the shape that the recipe's model takes."""
    card = model_card(recipe.model)
    channels, height, width = card.input_size
    steps = () if recipe.frames is None else (recipe.frames,)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, *steps, channels), dtype=np.uint8)
    split = ImageSplit.from_arrays(images, np.array([0, card.num_classes - 1]))
    names, level = tuple(map(str, range(card.num_classes))), (0.5,) * channels
    return ImageData("noise", split, split, class_names=names, mean=level, std=level, note="made here")


def settings() -> list[str]:
    """One name of the recipes that differ in nothing but model, data, length and the weights they start from."""
    any_run = {"name": "any", "model": "any", "model_options": {}, "data": "any", "init_from": None, "frames": None}
    first: dict[str, str] = {}
    for name in list_recipes():
        recipe = small(load_recipe(name))
        kind = "images" if recipe.frames is None else "frames"
        first.setdefault(kind + json.dumps(replace(recipe, **any_run).to_json(), sort_keys=True), name)
    return list(first.values())


@pytest.mark.parametrize("name", settings())
def test_the_settings_of_every_recipe_give_batches_and_an_optimiser(name: str) -> None:
    recipe = small(load_recipe(name))
    data = noise(recipe)
    images, labels = next(iter(build_loader(recipe, data, train=True)))
    assert len(images) == len(labels) == 2 and images.isfinite().all()
    assert (labels.dim() == 2) == bool(recipe.mixup or recipe.cutmix)
    assert build_optimizer(TinyNet(), recipe).param_groups
    assert learning_rate(load_recipe(name), 0, steps_per_epoch=10) >= 0


def trained() -> list[str]:
    """One name of the recipes of each model that takes a step in a moment."""
    first: dict[str, str] = {}
    for name in list_recipes():
        model = load_recipe(name).model
        if model_card(model).params < LARGEST:
            first.setdefault(model, name)
    return list(first.values())


@pytest.mark.parametrize("name", trained())
def test_the_recipes_of_small_models_train_for_a_step(name: str, tmp_path: Path) -> None:
    recipe = small(load_recipe(name))
    result = train(recipe, tmp_path, data=noise(recipe), console=Console(file=StringIO()))
    assert (result.completed, result.step) == (True, 1)


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_states_its_command_cost_and_expected_result(name: str) -> None:
    text = describe_recipe(name)
    command = re.search(r"^Command: (.+)$", text, re.MULTILINE)
    assert command is not None
    assert command[1].endswith(f"spimm train {name}")
    for field in ("Cost", "Expected"):
        assert len(re.findall(rf"^{field}: \S+", text, re.MULTILINE)) == 1, field
    facts = recipe_facts(name)
    assert all(facts) and not any("\n" in fact for fact in facts)
    assert facts.command == command[1]
    assert ("published" in facts.expected) <= (facts.source != "ours" or "jpeg" in name)


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("metaspikeformer_imagenet*", 4 + 4 + 12),
        ("metaspikeformer_har_dvs", 1),
        ("qkformer_imagenet*", 5),
        ("qkformer_cifar", 1),
        ("qkformer_cifar100", 1),
        ("qkformer_cifar100_*", len(CIFAR100_ABLATIONS)),
        ("qkformer_cifar10_dvs*", 2 + len(CIFAR10_DVS_ABLATIONS)),
        ("qkformer_dvs_gesture*", 2),
        ("spikeatconv_imagenet*", 10),
        ("cifar100_*", len(TABLES)),
        ("ttfs_vgg*_cifar10", 2),
        ("ttfs_vgg16_cifar100", 1),
        ("ttfs_mnist", 1),
    ],
)
def test_every_published_row_has_a_recipe_with_a_source(pattern: str, count: int) -> None:
    names = list_recipes(pattern)
    assert len(names) == count
    assert all("et al." in recipe_facts(name).source for name in names)


def test_the_published_settings_are_those_of_the_papers() -> None:
    first, taught = load_recipe("metaspikeformer_imagenet"), load_recipe("metaspikeformer_imagenet_55m_distilled")
    assert (first.lr, first.batch_size, first.optimizer) == (6e-4 * 1024 / 256, 1024, "lamb")
    assert (first.augment.rand_augment, first.interpolation) == ("rand-m9-mstd0.5-inc1", "bicubic")
    assert taught.teacher is not None and taught.teacher.startswith("caformer_b36")
    four = load_recipe("metaspikeformer_imagenet_55m_distilled_t4")
    assert (four.init_from, four.teacher, four.epochs) == ("runs/" + taught.name, taught.teacher, 50)
    large = load_recipe("qkformer_imagenet_10_768")
    assert large.lr == pytest.approx(6e-4 * large.batch_size / 256) and large.batch_size == 576
    tuned = load_recipe("qkformer_imagenet_10_768_384px")
    assert (tuned.image_size, tuned.crop_fraction, tuned.init_from) == (384, 1.0, "runs/" + large.name)
    cifar, dvs = load_recipe("qkformer_cifar"), load_recipe("qkformer_cifar10_dvs_t10")
    assert (cifar.augment.erase_mode, cifar.augment.rand_augment) == ("const", "rand-m9-n1-mstd0.4-inc1")
    assert (dvs.frames, dvs.bins, dvs.mix_probability, dvs.augment.event_policy) == (10, "count", 0.5, "wide")


@pytest.mark.parametrize("name", [name for name in list_recipes() if load_recipe(name).init_from])
def test_a_recipe_starts_from_the_run_of_another_with_the_same_weights(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.init_from is not None
    start = load_recipe(recipe.init_from.removeprefix("runs/"))
    with torch.device("meta"):
        shapes = [
            {key: value.shape for key, value in build_model(each, noise(each)).state_dict().items()}
            for each in (recipe, start)
        ]
    assert shapes[0] == shapes[1]


def test_an_unknown_recipe_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ValueError, match=r"unknown recipe 'digit'; nearest: digits"):
        load_recipe("digit")
    with pytest.raises(ValueError, match=r"unknown recipe 'zzz'; known: cifar100_ann, .* and \d+ more: spimm recipes"):
        load_recipe("zzz")


def test_settings_without_effect_are_named() -> None:
    changes = ["distill_alpha=0.9", "momentum=0.5", "mix_epochs=1", "rate_upper=0.5", "weight_bits_per=channel"]
    changes += ["augment.erase_mode=const", "folds=3", "batch_parts=3", "milestone_factor=0.5"]
    idle = apply_overrides(load_recipe("digits"), changes).idle
    assert sorted(setting.split(",")[0] for setting in idle) == sorted(changes)
    assert "batch_parts=3, which needs a divisor in common with batch_size=32" in idle


@pytest.mark.parametrize("name", list_recipes())
def test_no_recipe_has_a_setting_without_effect(name: str) -> None:
    assert load_recipe(name).idle == []
