"""The four systems and ordinary networks of their sizes, each on a JPEG copy of CIFAR-10 for 15 minutes of one core.

`cifar10_jpeg_budget_FAMILY_ann` is the ordinary network beside FAMILY: a ResNet-18 of 12 or 24 channels for QKFormer
and Meta-SpikeFormer, the spike-free SpikeAtConv, the ReLU1 twin of the VGG. The VGG11 has half the paper's width and
512 neurons in its hidden layers; five of its minutes go to the twin `..._ttfs_start`, from whose weights spike times
start. Epochs fill the budget at each network's speed. `python docs/pareto.py` draws accuracy against energy.

Command: SPIMM_DATA=FOLDER spimm train {name}
Cost: 14 to 17 minutes on one core of an AMD EPYC with AVX-512, of `..._ttfs` 6 and 11
"""

from dataclasses import replace

from spimm.train.config import Recipe
from spimm.train.recipes.cifar10_jpeg import RECIPE as QKFORMER
from spimm.train.recipes.metaspikeformer_cifar10_jpeg import RECIPE as METASPIKEFORMER
from spimm.train.recipes.spikeatconv_cifar10_jpeg import RECIPE as SPIKEATCONV
from spimm.train.recipes.ttfs_cifar10_jpeg import RECIPES as TTFS

_PREFIX = "cifar10_jpeg_budget_"
_HALF_VGG11 = {"convs": "32,M,64,M,128,128,M,256,256,M,256,256,M", "hidden": "512,512"}
_TWIN = replace(
    TTFS["ttfs_vgg11_cifar10_jpeg_ann"], model_options={**_HALF_VGG11, "init_centred": True}, mean_share=0.0
)
_RESNET = replace(SPIKEATCONV, model="resnet18_cifar_ann")
_RUNS = {
    "qkformer": replace(QKFORMER, epochs=4),
    "qkformer_ann": replace(_RESNET, model_options={"width": 12}, epochs=14),
    "metaspikeformer": replace(METASPIKEFORMER, epochs=6),
    "metaspikeformer_ann": replace(_RESNET, model_options={"width": 24}, epochs=7),
    "spikeatconv": replace(SPIKEATCONV, epochs=9),
    "spikeatconv_ann": replace(SPIKEATCONV, model_options={"spk": "gelu"}, epochs=10),
    "ttfs_start": replace(_TWIN, epochs=5),
    "ttfs": replace(
        TTFS["ttfs_vgg11_cifar10_jpeg"],
        model_options=_HALF_VGG11,
        init_from=f"runs/{_PREFIX}ttfs_start",
        mean_share=0.0,
        lr=5e-4,
        epochs=6,
    ),
    "ttfs_ann": replace(_TWIN, epochs=13),
}
RECIPES: dict[str, Recipe] = {_PREFIX + run: replace(recipe, name=_PREFIX + run) for run, recipe in _RUNS.items()}
_TOP1 = {
    "qkformer": 64.88,
    "qkformer_ann": 82.94,
    "metaspikeformer": 71.42,
    "metaspikeformer_ann": 82.54,
    "spikeatconv": 71.43,
    "spikeatconv_ann": 81.58,
    "ttfs_start": 73.80,
    "ttfs": 69.18,
    "ttfs_ann": 79.83,
}
NOTES = {
    _PREFIX + run: f"Expected: {top1:.2f} % top-1 after the last epoch (seed 0; docs/results)"
    for run, top1 in _TOP1.items()
}
