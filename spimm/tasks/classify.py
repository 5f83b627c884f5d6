"""Image classification: cross-entropy with label smoothing, one or two classifiers, a teacher; top-1 and top-5.

Legend: B batch, K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spimm.tasks.distill import Distill


@dataclass(frozen=True)
class Classify:
    """Classification over `num_classes` classes; calling it gives the loss and the logits of one batch.

    A model may have two classifiers and return both logits in training, (for the labels, for the teacher). `distill`
    adds a teacher: loss = (1 - alpha) CE(first, labels) + alpha distill(second), with second = first for a model of one
    classifier. Without a teacher each classifier learns from the labels, and the loss is their mean.
    """

    num_classes: int
    label_smoothing: float = 0.0
    distill: Distill | None = None

    def __post_init__(self) -> None:
        if self.num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, got {self.num_classes}")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), got {self.label_smoothing}")

    def __call__(self, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """images: [B, C, H, W], labels: int64 [B] or probabilities [B, K] -> {"loss": scalar fp32, "output": [B, K]}.

        The output of two classifiers is the mean of their logits. Labels on an accelerator are not looked at, for that
        would wait for it: `check_labels` them before the copy.
        """
        if labels.device.type == "cpu":
            self.check_labels(labels)
        first, second = self._heads(model(images), labels)
        loss = self._label_loss(first, labels)
        if self.distill is not None:
            alpha = self.distill.alpha
            loss = (1 - alpha) * loss + alpha * self.distill(second, images)
        elif second is not first:
            loss = (loss + self._label_loss(second, labels)) / 2
        return {"loss": loss, "output": first if second is first else (first + second) / 2}

    def check_labels(self, labels: Tensor) -> None:
        """ValueError naming the first class index outside [0, num_classes), or row of no probabilities, and where."""
        if labels.dim() != (2 if labels.is_floating_point() else 1):
            wanted = f"whole numbers of shape [B], or probabilities of shape [B, {self.num_classes}]"
            raise ValueError(f"labels must be {wanted}, got {labels.dtype} of shape {list(labels.shape)}")
        if labels.numel() == 0:
            return
        if labels.is_floating_point():
            self._check_probabilities(labels)
            return
        low, high = torch.aminmax(labels)
        if low >= 0 and high < self.num_classes:
            return
        position = int(torch.nonzero((labels < 0) | (labels >= self.num_classes))[0])
        raise ValueError(
            f"class index {int(labels[position])} (label number {position}) is out of range: "
            f"num_classes is {self.num_classes}, so labels must lie in 0..{self.num_classes - 1}"
        )

    def _check_probabilities(self, labels: Tensor) -> None:
        if labels.shape[1] != self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes}, got probabilities of shape {list(labels.shape)}")
        wrong = ~((labels.sum(1) - 1).abs() <= 1e-3) | (labels < 0).any(1)  # a sum of nan is wrong as well
        if wrong.any():
            row = int(wrong.nonzero()[0])
            seen = f"a sum of {labels[row].sum().item():.6g} and a minimum of {labels[row].min().item():.6g}"
            raise ValueError(f"probabilities must be 0 or more with a sum of 1, got {seen} (label number {row})")

    def metric(self, *, confusion: bool = False) -> "ClassifyMetric":
        """An empty metric for this task."""
        return ClassifyMetric(self.num_classes, confusion=confusion)

    def _label_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.label_smoothing)

    def _heads(self, outputs: Tensor | tuple[Tensor, ...], labels: Tensor) -> tuple[Tensor, Tensor]:
        """Logits for the labels and for the teacher, the same tensor where the model has one classifier."""
        heads = outputs if isinstance(outputs, tuple) else (outputs, outputs)
        wanted = [labels.shape[0], self.num_classes]
        shapes = [list(logits.shape) for logits in heads]
        if shapes != [wanted, wanted]:
            seen = ", ".join(map(str, shapes if isinstance(outputs, tuple) else shapes[:1]))
            raise ValueError(f"the model gave {seen or 'nothing'}, the task wants logits {wanted}, or a pair of them")
        return heads[0], heads[1]


@dataclass
class ClassifyMetric:
    """Running loss, top-1 and top-5 over any number of batches; sums stay on the logits' device until `compute`.

    `confusion` adds a [K, K] count matrix, true class by row and predicted class by column.
    """

    num_classes: int
    confusion: bool = False
    _sums: Tensor | None = field(default=None, repr=False)
    _matrix: Tensor | None = field(default=None, repr=False)

    @torch.no_grad()
    def update(self, output: Tensor, labels: Tensor) -> None:
        """Adds logits [B, K] and labels int64 [B]. ValueError for logits of other shape."""
        if list(output.shape) != [len(labels), self.num_classes]:
            wanted = f"[{len(labels)}, {self.num_classes}], for {self.num_classes} classes"
            raise ValueError(f"the model must return logits {wanted}, got {list(output.shape)}")
        logits = output.float()
        loss_sum = F.cross_entropy(logits, labels, reduction="sum")
        values, ranked = logits.topk(min(5, self.num_classes), dim=1)  # [B, 5]
        hits = ranked == labels[:, None]
        untied = (values[:, :1] > values[:, 1:2]).all(1)  # a single class has no other to tie with
        found = (hits[:, 0].sum(), (hits[:, 0] & untied).sum(), hits.sum())
        parts = (loss_sum, *found, loss_sum.new_tensor(len(labels)))
        batch = torch.stack([part.double() for part in parts])
        self._sums = batch if self._sums is None else self._sums + batch
        if self.confusion:
            pairs = labels * self.num_classes + ranked[:, 0]
            matrix = torch.bincount(pairs, minlength=self.num_classes**2).view(self.num_classes, self.num_classes)
            self._matrix = matrix if self._matrix is None else self._matrix + matrix

    def combine(self, total: Callable[[Tensor], Tensor]) -> None:
        """Puts `total` of them in the place of sums and counts, such as their sum over the ranks of a run."""
        self._sums = None if self._sums is None else total(self._sums)
        self._matrix = None if self._matrix is None else total(self._matrix)

    def compute(self) -> dict[str, Any]:
        """`loss` (plain cross-entropy, nats per image), `top1`, `untied_top1`, `top5` (percent), `images`, `confusion`.

        `untied_top1` is top-1 with ties counted wrong: the label's logit must be larger than every other. It matters
        where logits are spike times. `confusion` is there only if asked for.
        With fewer than five classes `top5` counts a hit anywhere, hence 100. ValueError before the first `update`.
        """
        if self._sums is None:
            raise ValueError("the metric has seen no images: call update before compute")
        loss_sum, first, untied, any_of_five, images = self._sums.tolist()
        result: dict[str, Any] = {
            "loss": loss_sum / images,
            "top1": 100.0 * first / images,
            "untied_top1": 100.0 * untied / images,
            "top5": 100.0 * any_of_five / images,
            "images": int(images),
        }
        if self._matrix is not None:
            result["confusion"] = self._matrix.tolist()
        return result

    def reset(self) -> None:
        """Forgets everything seen."""
        self._sums = None
        self._matrix = None
