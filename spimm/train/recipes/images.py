"""A small Meta-SpikeFormer (1.67 M parameters, T = 1) on your own images, `PATH/{train,val}/CLASS/*` or `PATH/CLASS/*`.

Images are cropped and resized to 64 x 64 pixels; image_size, model and every other setting can be changed behind the
command (docs/guide.md).

Command: SPIMM_DATA=FOLDER_WITH_TRAIN_AND_VAL spimm train images
Cost: about 400 images/s on one core of an AMD EPYC with AVX-512, images of 64 pixels, when they are read fast enough
Expected: depends on the images
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="images",
    model="metaspikeformer_64",
    data="imagefolder",
    image_size=64,
    augment=Augment(flip=True, crop_scale=(0.25, 1.0)),
    epochs=50,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=5,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
    precision="bf16",
    checkpoint_every=500,
    num_workers=2,
)
