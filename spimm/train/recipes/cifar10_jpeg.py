"""A small QKFormer (0.43 M parameters, T = 4) on CIFAR-10 for less than an hour of one CPU core.

The data is an `.npz` of JPEG images (`cifar10_jpeg.npz` in the data folder), which are lossy: its numbers do not
compare with those of the original images. `data=cifar10` trains on torchvision's.

Command: SPIMM_DATA=FOLDER spimm train cifar10_jpeg
Cost: 31 minutes on one core of an AMD EPYC with AVX-512 (190 images/s when nothing else runs there)
Expected: 68.79 % top-1 on the 10,000 test images after 6 epochs (seed 0; docs/results/cifar10_jpeg), still rising
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="cifar10_jpeg",
    model="qkformer_4_96_cifar",
    model_options={"num_steps": 4},
    data="npz:cifar10_jpeg.npz",
    augment=Augment(pad=4, flip=True),
    epochs=6,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
)
