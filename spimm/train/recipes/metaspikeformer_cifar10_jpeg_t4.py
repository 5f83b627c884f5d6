"""A small Meta-SpikeFormer on CIFAR-10 (JPEG) from T = 1 to T = 4: the best weights of `metaspikeformer_cifar10_jpeg`,
which must have run before, are trained on with four steps, a lower rate and a fifth of its epochs.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_cifar10_jpeg_t4
Cost: not measured yet, not run; 2 epochs of 781 steps at T = 4
Expected: not run yet; more than the T = 1 run it starts from (in the paper T = 4 adds 1.7 to 2.3 points on ImageNet)
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
