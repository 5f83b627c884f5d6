import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spimm.tasks import Classify, Distill

STUDENT = torch.tensor([[0.0, math.log(3.0)], [math.log(4.0), 0.0]])  # probabilities [1/4, 3/4] and [4/5, 1/5]
DISTILLED = torch.tensor([[math.log(9.0), 0.0], [0.0, math.log(1.5)]])  # [9/10, 1/10] and [2/5, 3/5]
TEACHER = torch.tensor([[0.0, math.log(4.0)], [0.0, math.log(9.0)]])  # [1/5, 4/5] and [1/10, 9/10]
LABELS = torch.tensor([1, 0])
ON_LABELS = -(math.log(3 / 4) + math.log(4 / 5)) / 2
DISTILLED_ON_LABELS = -(math.log(1 / 10) + math.log(2 / 5)) / 2
IMAGES = torch.zeros(2, 1, 4, 4)


class Says(nn.Module):
    """Gives these logits for any images, one pair or one tensor, from a parameter that takes gradients."""

    def __init__(self, *logits: Tensor) -> None:
        super().__init__()
        self.logits = nn.ParameterList(logits)

    def forward(self, images: Tensor) -> Any:
        heads = tuple(logits * 1.0 for logits in self.logits)
        return heads if len(heads) > 1 else heads[0]


def loss(student: nn.Module, **settings: Any) -> float:
    task = Classify(2, distill=Distill(Says(TEACHER), **settings))
    return task(student, IMAGES, LABELS)["loss"].item()


def divergence(*pairs: tuple[tuple[float, float], tuple[float, float]]) -> float:
    """Mean of KL(p || q) over pairs (p, q) of distributions over two classes."""
    each = [sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) for p, q in pairs]
    return sum(each) / len(each)


def test_hard_distillation_is_the_share_of_the_labels_and_of_the_teachers_class() -> None:
    on_teacher = -(math.log(1 / 10) + math.log(3 / 5)) / 2  # the teacher says class 1 twice
    assert loss(Says(STUDENT, DISTILLED)) == pytest.approx(0.5 * ON_LABELS + 0.5 * on_teacher)
    assert loss(Says(STUDENT, DISTILLED), alpha=0.2) == pytest.approx(0.8 * ON_LABELS + 0.2 * on_teacher)


def test_soft_distillation_is_the_divergence_from_the_teachers_probabilities() -> None:
    apart = divergence(((0.2, 0.8), (0.9, 0.1)), ((0.1, 0.9), (0.4, 0.6)))
    got = loss(Says(STUDENT, DISTILLED), target="soft", alpha=0.3)
    assert got == pytest.approx(0.7 * ON_LABELS + 0.3 * apart)


def test_a_temperature_of_two_takes_square_roots_of_odds_and_four_times_the_divergence() -> None:
    teacher = (1 / 3, 2 / 3), (1 / 4, 3 / 4)  # odds 4 and 9 become 2 and 3
    student = (3 / 4, 1 / 4), (1 / (1 + math.sqrt(1.5)), math.sqrt(1.5) / (1 + math.sqrt(1.5)))
    apart = divergence(*zip(teacher, student, strict=True))
    got = loss(Says(STUDENT, DISTILLED), target="soft", alpha=1.0, temperature=2.0)
    assert got == pytest.approx(4 * apart, rel=1e-5)
    hard = [loss(Says(STUDENT, DISTILLED), temperature=value) for value in (1.0, 2.0)]
    assert hard[0] == hard[1]


def test_smoothing_reaches_the_labels_and_not_the_teachers_class() -> None:
    smooth = Classify(2, label_smoothing=0.4, distill=Distill(Says(TEACHER), alpha=0.25))
    got = smooth(Says(STUDENT, DISTILLED), IMAGES, LABELS)["loss"]
    on_labels = F.cross_entropy(STUDENT, LABELS, label_smoothing=0.4)
    on_teacher = F.cross_entropy(DISTILLED, torch.tensor([1, 1]))
    torch.testing.assert_close(got, 0.75 * on_labels + 0.25 * on_teacher)


def test_mixed_labels_reach_the_labels_share_and_the_teacher_says_its_own() -> None:
    task = Classify(2, distill=Distill(Says(TEACHER), alpha=0.25))
    mixed = torch.tensor([[0.4, 0.6], [1.0, 0.0]])
    on_labels = -(0.4 * math.log(1 / 4) + 0.6 * math.log(3 / 4) + math.log(4 / 5)) / 2
    on_teacher = -(math.log(1 / 10) + math.log(3 / 5)) / 2
    got = task(Says(STUDENT, DISTILLED), IMAGES, mixed)["loss"].item()
    assert got == pytest.approx(0.75 * on_labels + 0.25 * on_teacher)


def test_a_student_with_one_classifier_learns_both_with_it() -> None:
    on_teacher = -(math.log(3 / 4) + math.log(1 / 5)) / 2
    assert loss(Says(STUDENT)) == pytest.approx(0.5 * ON_LABELS + 0.5 * on_teacher)
    soft = divergence(((0.2, 0.8), (0.25, 0.75)), ((0.1, 0.9), (0.8, 0.2)))
    assert loss(Says(STUDENT), target="soft") == pytest.approx(0.5 * ON_LABELS + 0.5 * soft)


def test_two_classifiers_without_a_teacher_both_learn_from_the_labels() -> None:
    student = Says(STUDENT, DISTILLED)
    result = Classify(2)(student, IMAGES, LABELS)
    assert result["loss"].item() == pytest.approx((ON_LABELS + DISTILLED_ON_LABELS) / 2)
    result["loss"].backward()
    assert all(logits.grad is not None and logits.grad.abs().sum() > 0 for logits in student.logits)


@pytest.mark.parametrize("distill", [None, Distill(Says(TEACHER))])
def test_the_output_of_two_classifiers_is_their_mean(distill: Distill | None) -> None:
    result = Classify(2, distill=distill)(Says(STUDENT, DISTILLED), IMAGES, LABELS)
    torch.testing.assert_close(result["output"], (STUDENT + DISTILLED) / 2)


@pytest.mark.parametrize("target", ["hard", "soft"])
def test_gradients_reach_each_classifier_from_its_own_target_and_never_the_teacher(target: Any) -> None:
    teacher, student = Says(TEACHER), Says(STUDENT, DISTILLED)
    Classify(2, distill=Distill(teacher, target))(student, IMAGES, LABELS)["loss"].backward()
    for logits, wanted in (
        (student.logits[0], F.one_hot(LABELS, 2)),
        (student.logits[1], F.one_hot(torch.tensor([1, 1]), 2) if target == "hard" else TEACHER.softmax(1)),
    ):
        torch.testing.assert_close(logits.grad, 0.5 * (logits.detach().softmax(1) - wanted) / 2)
    assert teacher.logits[0].grad is None
    assert not teacher.logits[0].requires_grad


def test_the_teacher_is_in_eval_mode_and_sees_the_students_images_under_its_autocast() -> None:
    seen: list[tuple[Tensor, torch.dtype, bool]] = []
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, 2), nn.Dropout(0.5)).train()
    teacher.register_forward_hook(
        lambda module, inputs, output: seen.append((inputs[0], output.dtype, module[2].training))
    )
    images = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = Classify(2, distill=Distill(teacher, "soft"))(Says(STUDENT), images, LABELS)
    assert [(dtype, training) for _, dtype, training in seen] == [(torch.bfloat16, False)]
    assert seen[0][0] is images
    assert result["loss"].dtype == torch.float32


def test_a_teacher_of_other_classes_and_images_it_cannot_take_are_named() -> None:
    task = Classify(2, distill=Distill(Says(torch.zeros(2, 1000))))
    with pytest.raises(ValueError, match=r"the teacher gave \[2, 1000\], the task wants logits \[2, 2\]"):
        task(Says(STUDENT), IMAGES, LABELS)
    with pytest.raises(ValueError, match=r"teacher takes images of shape \[B, C, H, W\], got \[2, 8, 1, 4, 4\]"):
        task(Says(STUDENT), torch.zeros(2, 8, 1, 4, 4), LABELS)


@pytest.mark.parametrize(
    ("heads", "seen"),
    [
        ((STUDENT, torch.zeros(2, 5)), r"\[2, 2\], \[2, 5\]"),
        ((STUDENT, STUDENT, STUDENT), r"\[2, 2\], \[2, 2\], \[2, 2\]"),
        ((torch.zeros(2, 5),), r"\[2, 5\]"),
    ],
)
def test_outputs_that_are_not_one_or_two_logits_are_named(heads: tuple[Tensor, ...], seen: str) -> None:
    with pytest.raises(ValueError, match=rf"the model gave {seen}, the task wants logits \[2, 2\], or a pair of them"):
        Classify(2)(Says(*heads), IMAGES, LABELS)


@pytest.mark.parametrize(
    ("name", "value"), [("target", "warm"), ("alpha", 1.1), ("alpha", -0.1), ("temperature", 0.0), ("alpha", math.nan)]
)
def test_impossible_settings_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"{name} must .*, got {value!r}"):
        Distill(nn.Identity(), **{name: value})
