"""A small SpikeAtConv (0.59 M parameters, T = 1) on CIFAR-10, and its comparisons within one budget.

The data is an `.npz` of JPEG images (`cifar10_jpeg.npz` in the data folder), which are lossy: its numbers do not
compare with those of the original images. Behind the command: model_options.attention=bdsa, model_options.spk=sl, or
model_options.spk=gelu for the spike-free counterpart.

Command: SPIMM_DATA=FOLDER spimm train spikeatconv_cifar10_jpeg
Cost: 9 minutes on one core of an AMD EPYC with AVX-512
Expected: 65.26 % top-1 after 5 epochs (seed 0), still rising; bdsa 65.04, sl 56.09, gelu 76.19 % (docs/results)
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="spikeatconv_cifar10_jpeg",
    model="spikeatconv_cifar",
    data="npz:cifar10_jpeg.npz",
    augment=Augment(pad=4, flip=True),
    epochs=5,
    batch_size=128,
    lr=4e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
)
