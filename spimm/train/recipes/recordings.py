"""A small QKFormer (0.38 M parameters, T = 4) on your own event recordings: `PATH/train/CLASS/*`, `PATH/val/CLASS/*`.

Behind the command: data=recordings:PATH; frames sets the frames of a recording and the model's time steps alike, and
docs/events.md has the other ways to make frames (docs/guide.md).

Command: SPIMM_DATA=FOLDER_WITH_RECORDINGS spimm train recordings
Cost: about 500 recordings/s of 34 x 34 pixels on one core of an AMD EPYC with AVX-512
Expected: depends on the recordings
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.recipes.nmnist_qkformer import RECIPE as NMNIST_QKFORMER

RECIPE = replace(
    NMNIST_QKFORMER,
    name="recordings",
    data="recordings:recordings",
    frames=4,
    augment=Augment(pad=3, rotate=12.0, shear=8.0),
    epochs=50,
    ema_decay=0.0,
)
