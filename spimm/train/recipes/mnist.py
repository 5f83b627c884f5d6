"""A small QKFormer (0.43 M parameters, T = 4) on MNIST, from torchvision's files or an `mnist.npz` in the data folder.

Command: SPIMM_DATA=FOLDER spimm train mnist
Cost: 5.3 minutes an epoch on one core of an AMD EPYC with AVX-512 (200 images/s while the other core was busy)
Expected: 99.49 % top-1 on the 10,000 test images after 7 epochs (seed 0; docs/results/mnist)
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="mnist",
    model="qkformer_4_96_mnist",
    model_options={"num_steps": 4},
    data="mnist",
    augment=Augment(pad=2),
    epochs=7,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=1,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
)
