"""Ablations of Meta-SpikeFormer in miniature (1.67 M parameters, T = 1) on CIFAR-10: one budget for every variant.

Behind the command come the options of a variant, its seed and a folder of its own: model_options.shortcut=spike_add or
vanilla, model_options.attention=sdsa1, sdsa2 or sdsa4, model_options.channel_kernel=1; seed=1 --out runs/sdsa1_1. The
images of `cifar10_jpeg.npz` are lossy.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_ablation
Cost: 2.5 to 4 minutes a run on one core of an AMD EPYC with AVX-512 (400 to 700 images/s)
Expected: about 49 % top-1 as it is, 40 % with spike_add, 12 % with vanilla (docs/results/metaspikeformer_ablation)
"""

from dataclasses import replace

from spimm.train.recipes.metaspikeformer_cifar10_jpeg import RECIPE as CIFAR

RECIPE = replace(CIFAR, name="metaspikeformer_ablation", model="metaspikeformer_cifar_half", epochs=2, warmup_epochs=0)
