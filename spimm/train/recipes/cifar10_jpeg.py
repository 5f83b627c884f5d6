"""A small QKFormer on a CIFAR-10 whose images went through JPEG at quality 75, from `cifar10_jpeg.npz`.

JPEG loses detail, so its numbers do not compare with those on CIFAR-10 proper.

Command: SPIMM_DATA=FOLDER spimm train cifar10_jpeg
Cost: not measured yet
Expected: not measured yet
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="cifar10_jpeg",
    model="qkformer_4_192_cifar",
    model_options={"num_steps": 4},
    data="npz:cifar10_jpeg.npz",
    augment=Augment(pad=4, flip=True),
    epochs=30,
    batch_size=64,
    lr=1e-3,
    warmup_epochs=2,
    weight_decay=0.06,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
    ema_decay=0.999,
)
