"""Knowledge distillation: a student learns from a teacher's logits as well as from the labels.

Legend: B batch, C channels, H W space, K classes.
"""

import math
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Target = Literal["hard", "soft"]


@dataclass(frozen=True)
class Distill:
    """What a student's logits lose against a frozen `teacher` (Touvron et al. 2021, Training data-efficient image
    transformers & distillation through attention, section 4).

    hard: cross-entropy with the teacher's class, without smoothing. soft: with t = `temperature`,
    t^2 KL(softmax(teacher / t) || softmax(student / t)). Both are in nats, a sum over classes and a mean over images
    (DeiT's code divides the soft one by K as well). alpha: share of this loss; the labels have the rest.

    The teacher is put in eval mode and its parameters take no gradient from then on.
    """

    teacher: nn.Module = field(repr=False)
    target: Target = "hard"
    alpha: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        if self.target not in get_args(Target):
            raise ValueError(f"target must be hard or soft, got {self.target!r}")
        if not 0.0 <= self.alpha <= 1.0:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha}")
        if not 0.0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be more than 0 and finite, got {self.temperature}")
        self.teacher.eval().requires_grad_(False)

    def __call__(self, logits: Tensor, images: Tensor) -> Tensor:
        """logits: the student's [B, K], images: [B, C, H, W] as the student saw them -> scalar fp32."""
        taught = self._teach(images, logits)
        if self.target == "hard":
            return F.cross_entropy(logits.float(), taught.argmax(1))
        wanted, got = (F.log_softmax(x.float() / self.temperature, dim=1) for x in (taught, logits))
        return self.temperature**2 * F.kl_div(got, wanted, reduction="batchmean", log_target=True)

    @torch.no_grad()
    def _teach(self, images: Tensor, logits: Tensor) -> Tensor:
        if images.dim() != 4:
            raise ValueError(f"the teacher takes images of shape [B, C, H, W], got {list(images.shape)}")
        taught = self.teacher(images)
        if taught.shape != logits.shape:
            raise ValueError(f"the teacher gave {list(taught.shape)}, the task wants logits {list(logits.shape)}")
        return taught
