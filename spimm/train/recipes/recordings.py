"""A small QKFormer (0.38 M parameters, T = 4) on your own event recordings: `PATH/train/CLASS/*`, `PATH/val/CLASS/*`.

Behind the command: data=recordings:PATH; frames sets the frames of a recording and the model's time steps alike, and
docs/events.md has the other ways to make frames (docs/guide.md).

Command: SPIMM_DATA=FOLDER_WITH_RECORDINGS spimm train recordings
Cost: about 500 recordings/s of 34 x 34 pixels on one core of an AMD EPYC with AVX-512
Expected: depends on the recordings
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.recipes.nmnist import RECIPE as NMNIST

RECIPE = replace(
    NMNIST,
    name="recordings",
    model="qkformer_2_128_nmnist",
    data="recordings:recordings",
    augment=Augment(pad=3, rotate=12.0, shear=8.0),
)
