"""A small Meta-SpikeFormer on CIFAR-10 (JPEG) from T = 1 to T = 4: the best weights of `metaspikeformer_cifar10_jpeg`,
which must have run before, are trained on for an epoch with four steps and a lower rate.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_cifar10_jpeg_t4
Cost: 9 minutes on one core of an AMD EPYC with AVX-512 (96 images/s beside other work)
Expected: 72.87 % top-1 on the 10,000 test images from 71.42 % at T = 1 (seed 0; docs/results)
"""

from dataclasses import replace

from spimm.train.recipes.metaspikeformer_cifar10_jpeg import RECIPE as ONE_STEP

RECIPE = replace(
    ONE_STEP,
    name="metaspikeformer_cifar10_jpeg_t4",
    model_options={**ONE_STEP.model_options, "num_steps": 4},
    init_from="runs/metaspikeformer_cifar10_jpeg",
    epochs=1,
    warmup_epochs=0,
    lr=2e-4,
)
