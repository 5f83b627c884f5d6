"""Tables 1 and 2 of SpikeAtConv in miniature: a ResNet-18 of a quarter of the width on 100 classes of 32x32 images.

One budget for every row: its options are those of the recipe `cifar100_ROW` (model_options.spk=sl and so on), behind
the command, with its seed and a folder of its own; model_options.decay_input=false is our own comparison. The
published learning rate of 0.02 and the rotation and shear are for 200 epochs. The images of
`tinyimagenet32_100c_jpeg.npz` (100 classes of Tiny-ImageNet) are lossy.

Command: SPIMM_DATA=FOLDER spimm train spk_tables
Cost: 1 to 8 minutes a run on one core of an AMD EPYC with AVX-512
Expected: 17 to 25 % top-1 for relu and four branches, 3 to 8 % for most others (docs/results/spk_tables)
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="spk_tables",
    model="resnet18_cifar_small",
    data="npz:tinyimagenet32_100c_jpeg.npz",
    augment=Augment(flip=True),
    epochs=4,
    batch_size=128,
    lr=4e-3,
    warmup_lr=1e-4,
    warmup_epochs=1,
    weight_decay=0.01,
    precision="bf16",
)
