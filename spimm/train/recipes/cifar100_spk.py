"""ResNet-18 with SPK blocks on CIFAR-100: a row of Table 1 or 2 of SpikeAtConv (Liao et al. 2025), one recipe for each.

Published: 200 epochs, AdamW, lr 0.02 (high for AdamW), batch 256, 5 epochs of warm-up, weight decay 0.01, flips, turns
of 30 degrees, shear. Ours, since the paper does not say: a shear of 10 degrees each way, a cosine to 1e-5, the stem of
one 3x3 convolution.

Command: SPIMM_DATA=FOLDER spimm train {name}
"""

from spimm.data import Augment
from spimm.models.resnet import TABLES
from spimm.train.config import Recipe
from spimm.train.cost import estimate

RECIPES = {
    f"cifar100_{name}": Recipe(
        name=f"cifar100_{name}",
        model="resnet18_cifar",
        model_options=row.options,
        data="cifar100",
        augment=Augment(flip=True, rotate=30.0, shear=10.0),
        epochs=200,
        batch_size=256,
        lr=2e-2,
        warmup_epochs=5,
        weight_decay=0.01,
    )
    for name, row in TABLES.items()
}
NOTES = {
    f"cifar100_{name}": f"Cost: {estimate(RECIPES[f'cifar100_{name}'])}\n"
    f"Expected: published {row.top1} % top-1 (Table {row.table}); not run with this recipe\n"
    f"Source: Liao et al. 2025, Table {row.table}"
    for name, row in TABLES.items()
}
