"""The VGG11 of DTA-TTFS on a JPEG copy of CIFAR-10 (`cifar10_jpeg.npz` in the data folder), for one CPU core.

`ttfs_vgg11_cifar10_jpeg_ann` trains the ReLU1 twin in bf16; `ttfs_vgg11_cifar10_jpeg` starts from its weights as they
are and trains spike times, in fp32. The published recipes are `ttfs_vgg11_cifar10_ann` and `ttfs_vgg11_cifar10`.

Command: SPIMM_DATA=FOLDER spimm train {name}
Cost: 5 epochs of the twin and 2 of spike times, 40 and 31 minutes on less than one core of an AMD EPYC with AVX-512
that had other work as well
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.config import Recipe

_NAME = "ttfs_vgg11_cifar10_jpeg"
_ANN = Recipe(
    name=f"{_NAME}_ann",
    model="ttfs_vgg11_ann",
    data="npz:cifar10_jpeg.npz",
    augment=Augment(pad=4, flip=True),
    epochs=5,
    batch_size=128,
    lr=1e-3,
    warmup_epochs=1,
    mean_share=0.1,
    weight_decay=0.05,
    clip_norm=1.0,
    precision="bf16",
)
RECIPES = {
    _ANN.name: _ANN,
    _NAME: replace(
        _ANN,
        name=_NAME,
        model="ttfs_vgg11",
        init_from=f"runs/{_ANN.name}",
        epochs=2,
        optimizer="adam",
        lr=2e-4,
        weight_decay=0.0,
        warmup_epochs=0,
        precision="fp32",
    ),
}
NOTES = {
    _ANN.name: "Expected: 75.46 % top-1 (seed 0), still rising",
    _NAME: "Expected: 73.10 % top-1 (seed 0), still rising; published 91.17 % on CIFAR-10 itself after 300 epochs",
}
