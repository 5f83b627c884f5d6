"""A VGG of DTA-TTFS on a JPEG copy of CIFAR-10 (`cifar10_jpeg.npz` in the data folder), for one CPU core.

`..._ann` trains the ReLU1 twin in bf16; the recipe without it starts from those weights as they are and trains spike
times, in fp32. VGG16 keeps the sum of each neuron's weights at 0, as `ttfs_mnist` does. The published recipes are
`ttfs_vgg11_cifar10_ann`, `ttfs_vgg11_cifar10` and the same of VGG16.

Command: SPIMM_DATA=FOLDER spimm train {name}
Cost: the twin and spike times of VGG11 40 and 31 minutes, of VGG16 43 and 51 minutes, on less than one core of an AMD
EPYC with AVX-512 that had other work as well
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.config import Recipe


def _pair(network: str, twin: Recipe) -> dict[str, Recipe]:
    """The twin's recipe and that of spike times from its weights, by name."""
    name = f"ttfs_{network}_cifar10_jpeg"
    ann = replace(twin, name=f"{name}_ann", model=f"ttfs_{network}_ann")
    spikes = replace(
        ann,
        name=name,
        model=f"ttfs_{network}",
        model_options={},
        init_from=f"runs/{ann.name}",
        epochs=2,
        optimizer="adam",
        lr=2e-4,
        weight_decay=0.0,
        warmup_epochs=0,
        precision="fp32",
    )
    return {recipe.name: recipe for recipe in (ann, spikes)}


_TWIN = Recipe(
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
_CENTRED = replace(_TWIN, epochs=6, mean_share=0.0, model_options={"init_centred": True})
RECIPES = {**_pair("vgg11", _TWIN), **_pair("vgg16", _CENTRED)}
NOTES = {
    "ttfs_vgg11_cifar10_jpeg_ann": "Expected: 75.46 % top-1 (seed 0), still rising",
    "ttfs_vgg11_cifar10_jpeg": "Expected: 73.10 % top-1 (seed 0), still rising; published 91.17 % on CIFAR-10 itself "
    "after 300 epochs",
    "ttfs_vgg16_cifar10_jpeg_ann": "Expected: 79.60 % top-1 (seed 0), still rising",
    "ttfs_vgg16_cifar10_jpeg": "Expected: 70.58 % top-1 (seed 0), still rising; published 93.05 % on CIFAR-10 itself "
    "after 300 epochs",
}
