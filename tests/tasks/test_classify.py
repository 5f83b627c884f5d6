import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spimm.tasks import Classify


class Says(nn.Module):
    """Gives these logits for any images."""

    def __init__(self, logits: Tensor | tuple[Tensor, ...]) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        return self.logits


def test_the_loss_of_uniform_logits_is_log_k_whatever_the_smoothing() -> None:
    for smoothing in (0.0, 0.3):
        task = Classify(7, label_smoothing=smoothing)
        result = task(nn.Identity(), torch.zeros(4, 7), torch.tensor([0, 1, 2, 6]))
        assert result["loss"].item() == pytest.approx(math.log(7), rel=1e-6)
        assert result["output"].shape == (4, 7)


def test_smoothing_mixes_the_target_with_the_uniform_distribution() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    loss = Classify(4, label_smoothing=0.2)(nn.Identity(), logits, labels)["loss"]
    target = 0.8 * F.one_hot(labels, 4) + 0.2 / 4
    assert loss.item() == pytest.approx(-(target * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("heads", [1, 2])
def test_the_loss_on_mixed_labels_is_the_mix_of_the_losses(heads: int, smoothing: float) -> None:
    random = torch.Generator().manual_seed(0)
    logits = tuple(torch.randn(heads, 5, 4, generator=random))
    model = Says(logits if heads == 2 else logits[0])
    first, second = torch.randint(4, (2, 5), generator=random)
    share = 0.3
    mixed = share * F.one_hot(first, 4).float() + (1 - share) * F.one_hot(second, 4).float()
    task = Classify(4, label_smoothing=smoothing)
    one, other, both = (task(model, torch.zeros(5, 1, 2, 2), labels)["loss"] for labels in (first, second, mixed))
    torch.testing.assert_close(both, share * one + (1 - share) * other)


def test_the_probabilities_of_one_class_are_that_label() -> None:
    logits, labels = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 3, 0])
    task = Classify(4, label_smoothing=0.1)
    hard, soft = (task(nn.Identity(), logits, given)["loss"] for given in (labels, F.one_hot(labels, 4).float()))
    torch.testing.assert_close(soft, hard)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[0.5, 0.5]], r"num_classes is 3, got probabilities of shape \[1, 2\]"),
        ([[0.0, 0.0, 1.0], [0.5, 0.5, 0.5]], r"a sum of 1\.5 .*\(label number 1\)"),
        ([[1.5, -0.5, 0.0]], r"a minimum of -0\.5 \(label number 0\)"),
        ([[math.nan, 0.5, 0.5]], "a sum of nan"),
    ],
)
def test_what_is_no_probability_is_named(labels: list[list[float]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Classify(3).check_labels(torch.tensor(labels))


def test_bf16_logits_give_an_fp32_loss() -> None:
    result = Classify(3)(nn.Identity(), torch.zeros(2, 3, dtype=torch.bfloat16), torch.tensor([0, 1]))
    assert result["loss"].dtype == torch.float32


@pytest.mark.parametrize("wrong", [-1, 10, 255])
def test_a_class_index_out_of_range_is_named_with_num_classes(wrong: int) -> None:
    labels = torch.tensor([3, 9, wrong, 0])
    with pytest.raises(ValueError, match=rf"class index {wrong} \(label number 2\).*num_classes is 10"):
        Classify(10).check_labels(labels)
    with pytest.raises(ValueError, match=f"class index {wrong}"):
        Classify(10)(nn.Identity(), torch.zeros(4, 10), labels)


def test_labels_must_be_one_whole_number_an_image() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        Classify(3).check_labels(torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"shape \[B\]"):
        Classify(3).check_labels(torch.tensor([[0], [1]]))


def test_a_model_with_another_number_of_classes_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 5\].*\[2, 3\]"):
        Classify(3)(nn.Identity(), torch.zeros(2, 5), torch.tensor([0, 1]))


def test_the_metric_does_not_depend_on_how_the_images_are_batched() -> None:
    random = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(23, 8, generator=random), torch.randint(8, (23,), generator=random)
    whole, parts = Classify(8).metric(), Classify(8).metric()
    whole.update(logits, labels)
    for start in (0, 10, 20):
        parts.update(logits[start : start + 10], labels[start : start + 10])
    assert parts.compute() == pytest.approx(whole.compute())
    assert whole.compute()["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    order = logits.argsort(1, descending=True)
    assert whole.compute()["top1"] == pytest.approx(100 * (order[:, 0] == labels).double().mean().item())
    among_five = (order[:, :5] == labels[:, None]).any(1)
    assert whole.compute()["top5"] == pytest.approx(100 * among_five.double().mean().item())


def test_a_tie_for_the_largest_logit_is_counted_wrong_beside_the_plain_count() -> None:
    metric = Classify(3).metric()
    metric.update(torch.tensor([[1.0, 1.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), torch.tensor([0, 0, 0]))
    assert metric.compute()["untied_top1"] == pytest.approx(100 / 3)
    single = Classify(1).metric()
    single.update(torch.zeros(2, 1), torch.tensor([0, 0]))
    assert single.compute()["untied_top1"] == 100.0


def test_the_confusion_matrix_counts_true_by_row_and_predicted_by_column() -> None:
    metric = Classify(3).metric(confusion=True)
    metric.update(F.one_hot(torch.tensor([0, 2, 2, 1]), 3).float(), torch.tensor([0, 1, 2, 1]))
    assert metric.compute()["confusion"] == [[1, 0, 0], [0, 1, 1], [0, 0, 1]]


def test_reset_forgets_and_an_empty_metric_has_no_result() -> None:
    metric = Classify(3).metric()
    metric.update(torch.eye(3), torch.tensor([0, 1, 2]))
    assert metric.compute()["images"] == 3
    metric.reset()
    with pytest.raises(ValueError, match="no images"):
        metric.compute()


@pytest.mark.parametrize(("settings", "name"), [((0, 0.0), "num_classes"), ((3, 1.0), "label_smoothing")])
def test_impossible_settings_are_refused(settings: tuple[int, float], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Classify(*settings)
