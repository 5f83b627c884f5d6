"""Meta-SpikeFormer on ImageNet at T = 1 as published (Yao et al. 2024): a size, a recipe each.

Published: LAMB, lr = 6e-4 batch / 256, batch 1024, 200 epochs, 10 of warm-up, weight decay 0.05, RandAugment, random
erasing, label smoothing, bicubic crops. The gradient norm is clipped to 1 since timm's LAMB does so unless told
otherwise; bf16 takes the place of their mixed precision. Distilled: hard labels of CAFormer-B36, which timm downloads,
or `teacher_weights=FILE`.

Command: SPIMM_DATA=FOLDER_WITH_TRAIN_AND_VAL spimm train {name}
"""

from dataclasses import replace
from typing import NamedTuple

from spimm.data import Augment
from spimm.train.config import Recipe
from spimm.train.cost import estimate

TEACHER = "caformer_b36.sail_in22k_ft_in1k"
_BASE = Recipe(
    name="metaspikeformer_imagenet",
    model="metaspikeformer_15m",
    model_options={"num_steps": 1},
    data="imagefolder",
    image_size=224,
    interpolation="bicubic",
    augment=Augment(flip=True, erase=0.25, rand_augment="rand-m9-mstd0.5-inc1"),
    epochs=200,
    batch_size=1024,
    batch_parts=64,
    optimizer="lamb",
    lr=2.4e-3,
    min_lr=1e-6,
    warmup_epochs=10,
    warmup_lr=0.0,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
    num_workers=8,
)


class Row(NamedTuple):
    """A size, whether it is distilled, and ImageNet top-1 in % as published at T = 1 and T = 4."""

    model: str
    distilled: bool
    one_step: float
    four_steps: float


ROWS = {
    "metaspikeformer_imagenet": Row("metaspikeformer_15m", False, 71.8, 74.1),
    "metaspikeformer_imagenet_31m": Row("metaspikeformer_31m", False, 75.4, 77.2),
    "metaspikeformer_imagenet_55m": Row("metaspikeformer_55m", False, 78.0, 79.7),
    "metaspikeformer_imagenet_55m_distilled": Row("metaspikeformer_55m", True, 79.1, 80.0),
}


def _recipe(name: str, row: Row) -> Recipe:
    options = {"num_steps": 1, "distillation": True} if row.distilled else {"num_steps": 1}
    teacher = TEACHER if row.distilled else None
    return replace(_BASE, name=name, model=row.model, model_options=options, teacher=teacher)


RECIPES = {name: _recipe(name, row) for name, row in ROWS.items()}
NOTES = {
    name: f"Cost: {estimate(RECIPES[name])}\n"
    f"Expected: published {row.one_step} % top-1; not run with this recipe\n"
    "Source: Yao et al. 2024, the table of ImageNet results (distilled: with a star); settings by the authors' README"
    for name, row in ROWS.items()
}
