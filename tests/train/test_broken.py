"""Images that hold NaN or infinities never reach a model: training and evaluation stop and name them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import spimm.data.loader
from spimm.data import ImageData, ImageSplit
from spimm.tasks import Classify
from spimm.train import Recipe, build_loader, evaluate
from spimm.train.broken import check_images

from .conftest import TinyNet
from .test_engine import run


def white_at(split: ImageSplit, *numbers: int) -> ImageSplit:
    """The split with images of 255, which no other image holds, at these places."""
    assert isinstance(split.images, Tensor)
    images = split.images.clone()
    images[list(numbers)] = 255
    return ImageSplit(images, split.labels)


@pytest.fixture
def white_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = spimm.data.loader.normalize

    def normalize(images: Tensor, *statistics: Any) -> Tensor:
        found = plain(images, *statistics)
        found[(images == 255).flatten(1).any(1)] = torch.nan
        return found

    monkeypatch.setattr(spimm.data.loader, "normalize", normalize)


@pytest.mark.usefixtures("white_is_nan")
def test_training_stops_at_an_image_that_is_not_finite_and_names_it(
    recipe: Recipe, data: ImageData, tmp_path: Path
) -> None:
    model = TinyNet()
    with pytest.raises(ValueError, match=r"^image 17 in batch \d of epoch 1: NaN or infinite values; expected finite"):
        run(recipe, tmp_path, replace(data, train=white_at(data.train, 17)), model)
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())


@pytest.mark.usefixtures("white_is_nan")
def test_evaluation_names_an_image_that_is_not_finite(recipe: Recipe, data: ImageData) -> None:
    loader = build_loader(replace(recipe, batch_size=8), replace(data, test=white_at(data.test, 19)), train=False)
    with pytest.raises(ValueError, match=r"^image 19 in batch 3 of epoch 1: NaN or infinite values"):
        evaluate(TinyNet(), loader, Classify(3), device="cpu")


def test_loaders_of_others_name_the_place_in_the_batch_and_large_values_pass() -> None:
    images = torch.full((6, 1, 4, 4), 3e38)
    check_images(images, object(), 0, 0)
    images[[1, 2, 4, 5], 0, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"^image 2, image 3, image 5 and 1 more in batch 8 of epoch 3"):
        check_images(images, object(), 2, 7)
