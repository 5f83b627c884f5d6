from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from spimm.data import ImageData
from spimm.tasks import Classify
from spimm.train import Recipe, build_loader, evaluate
from spimm.train.evaluation import pick_device

from .conftest import TinyNet


class OneBatch:
    """A loader of one given batch."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self._batch = images, labels

    def __len__(self) -> int:
        return 1

    def iterate(self, epoch: int, start_batch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        yield self._batch


def test_every_test_image_counts_once_whatever_the_batch_size(recipe: Recipe, data: ImageData) -> None:
    model, task = TinyNet(), Classify(3)
    results = []
    for size in (1, 8, 21):
        loader = build_loader(Recipe(model="tiny", data="shades", batch_size=size), data, train=False)
        results.append(evaluate(model, loader, task, device="cpu"))
    assert [result["images"] for result in results] == [21, 21, 21]
    assert results[0] == pytest.approx(results[1])
    assert results[0] == pytest.approx(results[2])


def test_evaluation_leaves_the_model_as_it_was() -> None:
    model = TinyNet()
    model.train()
    model.norm.eval()  # a frozen norm stays frozen
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    evaluate(model, OneBatch(torch.randn(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])), Classify(3), device="cpu")
    assert (model.training, model.norm.training, model.head.training) == (True, False, True)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_confusion_sums_to_the_images_and_its_diagonal_to_top1(recipe: Recipe, data: ImageData) -> None:
    result = evaluate(
        TinyNet(), build_loader(recipe, data, train=False), Classify(3), device="cpu", precision="bf16", confusion=True
    )
    matrix = torch.tensor(result["confusion"])
    assert matrix.sum(1).tolist() == [7, 7, 7]
    assert 100 * matrix.trace().item() / 21 == pytest.approx(result["top1"])


def test_a_label_out_of_range_is_named() -> None:
    with pytest.raises(ValueError, match=r"class index 7 .*num_classes is 3"):
        evaluate(TinyNet(), OneBatch(torch.zeros(2, 1, 6, 6), torch.tensor([0, 7])), Classify(3), device="cpu")


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "quantum"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        pick_device(name)
