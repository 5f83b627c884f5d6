from dataclasses import replace

import pytest
import torch
from torch import nn

import spimm
from spimm.models import registry
from spimm.models.registry import ModelCard, register_model

from .conftest import tiny

CARD = ModelCard("thing_1", "thing", "nobody", params=12, input_size=(3, 4, 4), num_classes=3, num_steps=2)


@pytest.fixture
def own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the registry that the test may change."""
    monkeypatch.setattr(registry, "_models", dict(registry._models))


@pytest.mark.usefixtures("own_registry")
def test_a_registered_model_is_listed_described_and_built() -> None:
    register_model(CARD, lambda **options: nn.Linear(3, options.get("num_classes", CARD.num_classes)))
    assert "thing_1" in spimm.list_models()
    assert spimm.model_card("thing_1") is CARD
    assert spimm.create_model("thing_1").out_features == 3
    assert spimm.create_model("thing_1", num_classes=5).out_features == 5


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_registered_once() -> None:
    register_model(CARD, nn.Identity)
    with pytest.raises(ValueError, match="a model named 'thing_1' is registered already"):
        register_model(replace(CARD, params=13), nn.Identity)
    assert spimm.model_card("thing_1") is CARD


def test_names_are_sorted_and_found_by_pattern() -> None:
    names = spimm.list_models()
    assert names == sorted(names)
    assert {"qkformer_10_384", "qkformer_10_512", "qkformer_10_768"} == set(spimm.list_models("qkformer_10_*"))
    assert spimm.list_models("nothing*") == []


@pytest.mark.parametrize("function", [spimm.create_model, spimm.model_card])
def test_an_unknown_name_is_answered_with_the_nearest_ones(function) -> None:
    with pytest.raises(ValueError, match=r"unknown model 'qkformer_4_384'; did you mean .*qkformer_4_384_cifar"):
        function("qkformer_4_384")
    with pytest.raises(ValueError, match=r"unknown model 'zzz'; see spimm.list_models\(\)"):
        function("zzz")


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("num_classes", -1, 0), ("num_steps", 0, 1), ("num_steps", -4, 1), ("in_chans", 0, 1)],
)
def test_sizes_below_the_least_are_refused(option: str, value: int, least: int) -> None:
    with pytest.raises(ValueError, match=f"{option} is {value}; wanted at least {least}"):
        spimm.create_model("qkformer_3_64_digits", **{option: value})


def test_sizes_asked_for_replace_those_of_the_card() -> None:
    model = spimm.create_model("qkformer_3_64_digits", num_classes=7, num_steps=2, in_chans=3)
    assert model(torch.randn(2, 3, 8, 8)).shape == (2, 7)
    assert (model.config.num_steps, model.num_classes) == (2, 7)


def test_no_classes_leave_the_pooled_features() -> None:
    model = spimm.create_model("qkformer_3_64_digits", num_classes=0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert model(torch.randn(2, 1, 8, 8)).shape == (2, 64)


def test_weights_of_a_file_are_loaded_at_creation(tmp_path) -> None:
    model = tiny()
    path = spimm.save_weights(model, tmp_path / "weights.safetensors")
    options = {"embed_dim": 16, "num_heads": 2, "num_steps": 3}
    copy = spimm.create_model("qkformer_4_384_cifar", weights=path, **options).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(copy(x), model(x))
    backbone = spimm.create_model("qkformer_4_384_cifar", weights=path, features_only=True, **options).eval()
    torch.testing.assert_close(model.head(backbone(x)[-1].mean((2, 3))), model(x))


def test_public_names_are_those_of_the_models_room() -> None:
    assert spimm.__version__
    assert spimm.list_models is registry.list_models
    with pytest.raises(AttributeError, match="no attribute 'creat_model'"):
        spimm.creat_model  # noqa: B018
