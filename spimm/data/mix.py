"""Mixup and CutMix: every image of a batch and its label are mixed with those of another image of the batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from spimm.data.transforms import seeded


@dataclass(frozen=True)
class Mix:
    """Blends images (mixup, Zhang et al. 2018) or pastes a rectangle of one into another (CutMix, Yun et al. 2019).

    mixup, cutmix: the share of the second image is drawn for each batch from Beta(value, value); 0 is off. With both
    on, a batch takes either with probability 1/2. probability: of a batch to be mixed at all. epochs: training epochs
    with it, from the first; None is all.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    epochs: int | None = None
    probability: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more and finite, got {getattr(self, name)}")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability must lie in (0, 1], got {self.probability}")
        if not self.mixup and not self.cutmix:
            raise ValueError("mixup or cutmix must be more than 0, got 0 for both")

    def covers(self, epoch: int) -> bool:
        """Whether `epoch`, counted from 0, is mixed."""
        return self.epochs is None or epoch < self.epochs

    def __call__(self, images: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Float [B, C, H, W] and int64 [B] -> float [B, C, H, W] and probabilities, float32 [B, K]."""
        from torchvision.transforms import v2

        if self.probability < 1 and float(torch.rand((), generator=generator)) >= self.probability:
            return images, F.one_hot(labels, self.num_classes).float()
        kinds = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
        chosen = [kind(alpha=alpha, num_classes=self.num_classes) for kind, alpha in kinds if alpha]
        with seeded(int(torch.randint(2**31, (), generator=generator))):
            return v2.RandomChoice(chosen)(images, labels)
