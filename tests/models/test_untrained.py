"""A model whose weights are random says so wherever its figures are asked for."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm import weights
from spimm.analyze import analyze
from spimm.deploy import fold
from spimm.weights import untrained


def digits() -> nn.Module:
    """A small model with random weights."""
    return spimm.create_model("qkformer_3_64_digits", num_steps=1)


@pytest.fixture(autouse=True)
def nothing_said() -> None:
    """Each message is logged once in a process."""
    weights._say.cache_clear()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(2, 1, 8, 8)


COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "itself": lambda model: model,
    "a deep copy": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "folded": fold,
    "in another dtype": lambda model: model.to(torch.float64),
    "wrapped": nn.Sequential,
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_new_model_and_its_copies_are_untrained(kind: str) -> None:
    assert untrained(COPIES[kind](digits())) == "weights"


def step(model: nn.Module, images: Tensor) -> nn.Module:
    model.train()(images).sum().backward()
    return model


TAUGHT: dict[str, Callable[[nn.Module, Path, Tensor], object]] = {
    "load_weights": lambda model, path, images: spimm.load_weights(model, path),
    "load_state_dict": lambda model, path, images: model.load_state_dict(digits().state_dict()),
    "through a wrapper": lambda model, path, images: nn.Sequential(model).load_state_dict(
        nn.Sequential(digits()).state_dict()
    ),
    "a training step": lambda model, path, images: step(model, images),
}


@pytest.mark.parametrize("way", TAUGHT)
def test_loading_and_training_end_that(way: str, tmp_path: Path, images: Tensor) -> None:
    path, model = spimm.save_weights(digits(), tmp_path / "weights.safetensors"), digits()
    TAUGHT[way](model, path, images)
    assert untrained(model) == untrained(copy.deepcopy(model)) == untrained(fold(model)) == ""


def test_loading_nothing_or_something_else_is_no_training() -> None:
    model = digits()
    model.load_state_dict({}, strict=False)
    with pytest.raises(RuntimeError, match="Missing key"):
        model.load_state_dict({"head.weight": model.head.weight})
    assert untrained(model) == "weights"


def test_a_new_classifier_on_loaded_weights_is_untrained_until_it_learns(tmp_path: Path, images: Tensor) -> None:
    model = digits()
    spimm.load_weights(model, spimm.save_weights(step(digits(), images), tmp_path / "weights.safetensors"))
    model.reset_classifier(4)
    assert untrained(model) == "classifier"
    model.reset_classifier(0)
    assert untrained(step(model, images)) == ""


def test_analysis_and_backbones_name_a_random_model_once(images: Tensor, caplog) -> None:
    for _ in range(2):
        analyze(digits(), [images], model_name="digits")
        spimm.create_model("qkformer_3_64_digits", features_only=True)
    assert [message.split(",")[0] for message in caplog.messages] == [
        "digits has random weights",
        "qkformer_3_64_digits has random weights",
    ]
    analyze(step(digits(), images), [images], model_name="trained")
    assert len(caplog.messages) == 2
