"""A small QKFormer in the form for event cameras (0.38 M parameters) on N-MNIST recordings in an `.npz` file, T = 4.

`fold=0` to `fold=4` train and test on five folds of all recordings, as `nmnist` does.

Command: SPIMM_DATA=FOLDER spimm train nmnist_qkformer
Cost: 3 minutes a fold on one core of an AMD EPYC with AVX-512 (500 recordings/s)
Expected: not yet
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.recipes.nmnist import RECIPE as NMNIST

RECIPE = replace(
    NMNIST,
    name="nmnist_qkformer",
    model="qkformer_2_128_nmnist",
    augment=Augment(pad=3, rotate=12.0, shear=8.0),
    epochs=100,
)
