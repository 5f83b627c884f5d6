"""Ablations of Meta-SpikeFormer in miniature (1.67 M parameters, T = 1) on CIFAR-10: one budget for every variant.

Options change the model, e.g. model_options.shortcut=spike_add, model_options.attention=sdsa1 or
model_options.channel_kernel=1; runs are repeated with seed=0, 1 and 2. Images are those of `cifar10_jpeg.npz`, lossy.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_ablation model_options.attention=sdsa1 seed=1 --out FOLDER
Cost: TODO
Expected: TODO
"""

from dataclasses import replace

from spimm.train.recipes.metaspikeformer_cifar10_jpeg import RECIPE as CIFAR

RECIPE = replace(CIFAR, name="metaspikeformer_ablation", model="metaspikeformer_cifar_half", epochs=2, warmup_epochs=0)
