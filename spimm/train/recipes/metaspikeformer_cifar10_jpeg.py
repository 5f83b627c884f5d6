"""A small Meta-SpikeFormer (1.67 M parameters, T = 1) on CIFAR-10, a quarter of an hour of one CPU core.

The data is an `.npz` of JPEG images (`cifar10_jpeg.npz` in the data folder), which are lossy: its numbers do not
compare with those of the original images. `data=cifar10` trains on torchvision's.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_cifar10_jpeg
Cost: 17.5 minutes on one core of an AMD EPYC with AVX-512 (300 to 370 images/s beside other work)
Expected: 71.42 % top-1 on the 10,000 test images after 6 epochs (seed 0; docs/results), still rising
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="metaspikeformer_cifar10_jpeg",
    model="metaspikeformer_cifar",
    data="npz:cifar10_jpeg.npz",
    augment=Augment(pad=4, flip=True),
    epochs=6,
    batch_size=64,
    lr=6e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
)
