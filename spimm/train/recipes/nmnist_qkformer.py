"""A small QKFormer in the form for event cameras (0.38 M parameters) on N-MNIST recordings in an `.npz` file, T = 8.

`fold=0` to `fold=4` train and test on five folds of all recordings, augmented as those of `nmnist` are.

Command: SPIMM_DATA=FOLDER spimm train nmnist_qkformer
Cost: 6 minutes a fold on one core of an AMD EPYC with AVX-512 (250 recordings/s)
Expected: 97.36 % top-1 after the last epoch, mean of five folds (96.36 to 98.64; seed 0; docs/results)
"""

from dataclasses import replace

from spimm.train.recipes.nmnist import RECIPE as NMNIST

RECIPE = replace(
    NMNIST,
    name="nmnist_qkformer",
    model="qkformer_2_128_nmnist",
    frames=8,
    lr=6e-3,
)
