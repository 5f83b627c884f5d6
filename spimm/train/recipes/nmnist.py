"""A small Meta-SpikeFormer (1.67 M parameters) on N-MNIST recordings in an `.npz` file, 4 frames of event counts each.

`fold=0` to `fold=4` train and test on five folds of all recordings. A test part this small makes the best epoch's
accuracy optimistic: compare that of the last one.

Command: SPIMM_DATA=FOLDER spimm train nmnist
Cost: 5.5 minutes a fold on one core of an AMD EPYC with AVX-512 (135 recordings/s)
Expected: 95.6 % top-1 after the last epoch, mean of five folds (94.6 to 96.8; seed 0; docs/results)
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="nmnist",
    model="metaspikeformer_nmnist",
    data="events:nmnist_small.npz",
    frames=4,
    augment=Augment(pad=3),
    epochs=50,
    batch_size=32,
    lr=6e-3,
    warmup_epochs=2,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
)
