import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from spimm.data import Augment
from spimm.train import Recipe, apply_overrides, config

BASE = Recipe(model="some_model", data="digits", model_options={"num_steps": 4, "neuron": "lif"})


def test_a_recipe_survives_json() -> None:
    recipe = replace(BASE, augment=Augment(pad=2, crop_scale=(0.5, 1.0)), betas=(0.8, 0.95), image_size=32)
    recipe = replace(recipe, schedule="milestones", milestones=(3, 5), sensor=(180, 240))
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(("stored", "policy"), [(True, "imagenet"), (False, None)])
def test_json_from_when_auto_augment_was_on_or_off_is_still_read(stored: bool, policy: str | None) -> None:
    assert Recipe.from_json({**BASE.to_json(), "augment": {"auto_augment": stored}}).augment.auto_augment == policy


def test_json_of_another_version_is_refused_by_its_unknown_fields() -> None:
    with pytest.raises(ValueError, match=r"recipe has fields .*: colour"):
        Recipe.from_json({**BASE.to_json(), "colour": "blue"})
    with pytest.raises(ValueError, match=r"augment has fields .*: swirl"):
        Recipe.from_json({**BASE.to_json(), "augment": {"swirl": 1}})


def test_a_recipe_does_not_share_its_options_with_the_caller() -> None:
    options: dict[str, Any] = {"num_steps": 4}
    recipe = replace(BASE, model_options=options)
    options["num_steps"] = 8
    assert recipe.model_options == {"num_steps": 4}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model", ""),
        ("epochs", 0),
        ("batch_size", 0),
        ("accumulate", 0),
        ("accumulate", 5),
        ("batch_parts", 0),
        ("parallel", "zero"),
        ("rank_timeout", 0),
        ("lr", 0.0),
        ("lr", float("nan")),
        ("min_lr", 1.0),
        ("warmup_lr", 1.0),
        ("warmup_epochs", 11),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("label_smoothing", 1.0),
        ("mixup", -0.1),
        ("cutmix", float("inf")),
        ("mix_epochs", 0),
        ("mix_probability", 0.0),
        ("repeats", 0),
        ("layer_decay", 0.0),
        ("layer_decay", 1.1),
        ("interpolation", "nearest"),
        ("crop_fraction", 0.0),
        ("ema_decay", 1.0),
        ("clip_norm", -1.0),
        ("clip_norm", float("inf")),
        ("checkpoint_every", -1),
        ("eval_every", 0),
        ("log_every", 0),
        ("num_workers", -1),
        ("seed", -1),
        ("image_size", 0),
        ("frames", 0),
        ("frames", 8),
        ("bins", "width"),
        ("bin_size", 0),
        ("representation", "grid"),
        ("sensor_size", 0),
        ("sensor", (34,)),
        ("sensor", (0, 34)),
        ("split_seed", -1),
        ("fold", 5),
        ("fold", -1),
        ("folds", 1),
        ("corrupt", "ignore"),
        ("spike_guard", 1.0),
        ("rate_weight", -1.0),
        ("rate_upper", 1.5),
        ("rate_lower", 0.2),
        ("precision", "fp16"),
        ("optimizer", "rmsprop"),
        ("momentum", 1.0),
        ("schedule", "linear"),
        ("milestones", (3, 5)),
        ("milestone_factor", 1.0),
        ("init_from", ""),
        ("teacher", ""),
        ("teacher_weights", "teacher.safetensors"),
        ("distillation", "warm"),
        ("distill_alpha", 1.5),
        ("distill_temperature", 0.0),
    ],
)
def test_an_impossible_value_is_named_with_what_is_wanted(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got "):
        replace(BASE, **{name: value})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("milestones", {}),
        ("milestones", {"milestones": (5, 3)}),
        ("milestones", {"milestones": (3, 3)}),
        ("milestones", {"milestones": (0, 3)}),
        ("milestones", {"milestones": (3, 5), "warmup_epochs": 4}),
        ("cooldown_epochs", {"milestones": (3, 5), "cooldown_epochs": 1}),
    ],
)
def test_milestones_rise_from_the_end_of_the_warm_up_and_have_no_cool_down(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .* with schedule=milestones, got "):
        replace(BASE, schedule="milestones", **settings)


def test_split_weights_are_not_quantised() -> None:
    assert replace(BASE, weight_bits=4).parallel == "ddp"
    with pytest.raises(ValueError, match=r"^weight_bits must be None with parallel=fsdp, got 4"):
        replace(BASE, weight_bits=4, parallel="fsdp")


def test_milestones_may_lie_behind_the_end_and_their_rate_below_min_lr() -> None:
    recipe = replace(BASE, schedule="milestones", milestones=(4, 99), warmup_epochs=4, lr=1e-4, min_lr=1e-3)
    assert recipe.milestones == (4, 99)


def test_every_field_has_a_line_that_says_what_it_is() -> None:
    source = Path(config.__file__).read_text(encoding="utf-8").splitlines()
    for item in fields(Recipe):
        line = next(number for number, text in enumerate(source) if text.startswith(f"    {item.name}: "))
        assert source[line + 1].startswith('    """'), item.name


@pytest.mark.parametrize(
    ("tokens", "changes"),
    [
        (["lr=1e-3"], {"lr": 1e-3}),
        (["--lr", "2e-3", "--epochs=7"], {"lr": 2e-3, "epochs": 7}),
        (["--batch-size", "16", "clip-norm=1"], {"batch_size": 16, "clip_norm": 1.0}),
        (["betas=0.8,0.95"], {"betas": (0.8, 0.95)}),
        (["image_size=32"], {"image_size": 32}),
        (["image_size=none"], {"image_size": None}),
        (["frames=4", "bins=count", "fold=2", "folds=3"], {"frames": 4, "bins": "count", "fold": 2, "folds": 3}),
        (
            ["bins=duration", "bin_size=5000", "representation=surface", "merge_polarity=true", "sensor_size=64"],
            {
                "bins": "duration",
                "bin_size": 5000,
                "representation": "surface",
                "merge_polarity": True,
                "sensor_size": 64,
            },
        ),
        (["sensor=180,240", "split_seed=3"], {"sensor": (180, 240), "split_seed": 3}),
        (["init_from=runs/first", "teacher=none"], {"init_from": "runs/first", "teacher": None}),
        (["tensorboard=false"], {"tensorboard": False}),
        (["precision=bf16", "device=cpu"], {"precision": "bf16", "device": "cpu"}),
        (["data=npz:a=b.npz"], {"data": "npz:a=b.npz"}),
        (["augment.pad=2", "augment.flip=true"], {"augment": Augment(pad=2, flip=True)}),
        (
            ["augment.shear=10", "augment.auto_augment=cifar10", "augment.cutout=16", "augment.fill=128"],
            {"augment": Augment(shear=10.0, auto_augment="cifar10", cutout=16, fill=128)},
        ),
        (["augment.auto_augment=none"], {}),
        (
            ["augment.rand_augment=rand-m9-mstd0.5-inc1", "augment.erase_mode=const", "augment.erase_count=2"],
            {"augment": Augment(rand_augment="rand-m9-mstd0.5-inc1", erase_mode="const", erase_count=2)},
        ),
        (
            ["interpolation=bicubic", "crop_fraction=1", "repeats=3", "mix_probability=0.5", "layer_decay=0.75"],
            {
                "interpolation": "bicubic",
                "crop_fraction": 1.0,
                "repeats": 3,
                "mix_probability": 0.5,
                "layer_decay": 0.75,
            },
        ),
        (
            ["schedule=milestones", "milestones=50,150", "milestone_factor=0.4"],
            {"schedule": "milestones", "milestones": (50, 150), "milestone_factor": 0.4},
        ),
        (["schedule=milestones", "--milestones", "7"], {"schedule": "milestones", "milestones": (7,)}),
        (["milestones="], {}),
        (["optimizer=sgd", "momentum=0.5"], {"optimizer": "sgd", "momentum": 0.5}),
        (["mixup=0.8", "cutmix=1", "mix_epochs=3"], {"mixup": 0.8, "cutmix": 1.0, "mix_epochs": 3}),
        (["augment.crop_scale=0.5,1"], {"augment": Augment(crop_scale=(0.5, 1.0))}),
        (["model_options.neuron=plif"], {"model_options": {"num_steps": 4, "neuron": "plif"}}),
        (
            ["model_options.num_steps=8", "--model-options.tau", "2.5", "model_options.legacy=true"],
            {"model_options": {"num_steps": 8, "neuron": "lif", "tau": 2.5, "legacy": True}},
        ),
        ([], {}),
    ],
)
def test_settings_from_the_command_line_change_the_recipe(tokens: list[str], changes: dict[str, Any]) -> None:
    assert apply_overrides(BASE, tokens) == replace(BASE, **changes)


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (["learning_rate=1"], r"unknown setting 'learning_rate'; (nearest|known): "),
        (["weigth_decay=1"], r"unknown setting 'weigth_decay'; nearest: weight_decay"),
        (["--bach-size", "3"], r"unknown setting 'bach_size'; nearest: batch_size"),
        (["augment.flp=true"], r"unknown setting 'augment.flp'; nearest: augment.flip"),
        (["lr.x=1"], r"unknown setting 'lr.x'"),
        (["model_options=3"], r"unknown setting 'model_options'; nearest: model_options.neuron"),
        (["lr=fast"], r"lr must be float, got 'fast'"),
        (["epochs=1.5"], r"epochs must be int, got '1.5'"),
        (["betas=0.9"], r"betas must be tuple\[float, float\], got '0.9'"),
        (["milestones=3,late"], r"milestones must be tuple\[int, \.\.\.\], got '3,late'"),
        (["betas="], r"betas must be tuple\[float, float\], got ''"),
        (["augment.auto_augment=yes"], r"augment.auto_augment must be .*'imagenet', 'cifar10'.*, got 'yes'"),
        (["precision=fp8"], r"precision must be Literal\['fp32', 'bf16'\], got 'fp8'"),
        (["tensorboard=maybe"], r"tensorboard must be bool, got 'maybe'"),
        (["lr=-1"], r"lr must be more than 0 and finite, got -1.0"),
        (["lr"], r"expected key=value or --key value, got 'lr'"),
        (["--lr"], r"--lr has no value"),
        (["--lr", "--epochs"], r"--lr has no value"),
    ],
)
def test_a_wrong_setting_is_named(tokens: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=text):
        apply_overrides(BASE, tokens)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("size", "parts"), [(512, 64), (96, 32), (7, 1)])
def test_a_batch_has_as_many_parts_as_divide_it(size: int, parts: int) -> None:
    assert Recipe(model="qkformer_3_64_digits", data="digits", batch_size=size, batch_parts=64).parts == parts
