"""A small QKFormer (0.43 M parameters, T = 4) on MNIST, from torchvision's files or an `mnist.npz` in the data folder.

Command: SPIMM_DATA=FOLDER spimm train mnist
Cost: not measured yet
Expected: not measured yet
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
