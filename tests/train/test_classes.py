"""Data is evaluated by the names of its classes, never by numbers that happen to be alike."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from spimm.data import ImageData, ImageSplit
from spimm.tasks import Classify
from spimm.train import Recipe, evaluate, match_classes, run_classes, train
from spimm.train.classes import _tell

from .conftest import TinyNet


def renamed(data: ImageData, names: tuple[str, ...], order: tuple[int, ...]) -> ImageData:
    """The same images, class k being `order[k]` of `names`."""
    number = torch.tensor(order)
    parts = {part: ImageSplit(split.images, number[split.labels]) for part, split in data.parts.items()}
    return replace(data, name=f"set {'/'.join(names)}", class_names=names, **parts)


def test_the_same_classes_are_left_as_they_are(data: ImageData) -> None:
    assert match_classes(data, data.class_names) is data


def test_another_order_is_mapped_by_name_which_is_said_once(data: ImageData, caplog) -> None:
    other = renamed(data, ("bright", "dark", "grey"), (1, 2, 0))
    _tell.cache_clear()
    with caplog.at_level(logging.WARNING):
        matched = match_classes(other, ("dark", "grey", "bright"))
        match_classes(other, ("dark", "grey", "bright"))
    assert matched.class_names == ("dark", "grey", "bright")
    for part, split in data.parts.items():
        assert torch.equal(matched.parts[part].labels, split.labels)
    assert [record.getMessage() for record in caplog.records] == [
        "set bright/dark/grey: 3 of the model's 3 classes, matched by name"
    ]


def test_fewer_classes_are_mapped(data: ImageData) -> None:
    some = data.test.labels != 1
    few = ImageSplit(data.test.images[some], data.test.labels[some].clamp(max=1))
    two = replace(data, train=few, test=few, class_names=("dark", "bright"))
    assert torch.equal(match_classes(two, data.class_names).test.labels, data.test.labels[some])


@pytest.mark.parametrize(
    "names", [("dark", "grey", "blue"), ("Dark", "grey", "bright"), ("dark", "grey", "bright", "red")]
)
def test_classes_that_the_model_does_not_know_are_refused(data: ImageData, names: tuple[str, ...]) -> None:
    other = replace(data, name="other", class_names=names)
    with pytest.raises(ValueError) as caught:
        match_classes(other, data.class_names)
    (unknown,) = set(names) - set(data.class_names)
    assert f"other has classes that the model was not trained on: {unknown}; it knows dark, grey, bright" in str(
        caught.value
    )
    assert len(str(caught.value).splitlines()) <= 3


def test_numbers_on_one_side_are_believed_which_is_said(data: ImageData, caplog) -> None:
    numbered = replace(data, name="numbered", class_names=("0", "1", "2"))
    with caplog.at_level(logging.WARNING):
        assert torch.equal(match_classes(numbered, data.class_names).test.labels, data.test.labels)
        match_classes(data, ("0", "1", "2", "3"))
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == ["numbered", "shades"]
    with pytest.raises(ValueError, match="not trained on: 2; it knows 0, 1"):
        match_classes(numbered, ("0", "1"))


def test_a_run_keeps_its_classes_and_goes_on_with_no_others(recipe: Recipe, data: ImageData, tmp_path: Path) -> None:
    train(recipe, tmp_path, data=data, model=TinyNet())
    assert run_classes(tmp_path) == data.class_names
    other = renamed(data, ("bright", "dark", "grey"), (1, 2, 0))
    with pytest.raises(ValueError, match=r"was trained on the classes dark, grey, bright; .* has bright, dark, grey"):
        train(recipe, tmp_path, data=other, model=TinyNet())
    (tmp_path / "data.json").write_text(json.dumps({"num_classes": 3}))  # as of an earlier version
    assert run_classes(tmp_path) is None
    with pytest.raises(FileNotFoundError, match="holds no training run"):
        run_classes(tmp_path / "nowhere")


@pytest.mark.parametrize("width", [2, 4])
def test_a_head_of_other_width_is_named(width: int) -> None:
    class Loader:
        def __len__(self) -> int:
            return 1

        def iterate(self, epoch: int, start_batch: int = 0):
            yield torch.zeros(5, 1), torch.tensor([0, 1, 2, 0, 1])

    class Net(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.zeros(len(images), width)

    with pytest.raises(ValueError, match=rf"must return logits \[5, 3\], for 3 classes, got \[5, {width}\]"):
        evaluate(Net(), Loader(), Classify(3), device="cpu")
