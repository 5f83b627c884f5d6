"""A small QKFormer on the 8x8 digits of scikit-learn: no download, the first thing to run.

Command: spimm train digits
Cost: not measured yet
Expected: not measured yet
"""

from spimm.data import Augment
from spimm.train.config import Recipe

RECIPE = Recipe(
    name="digits",
    model="qkformer_3_64_digits",
    model_options={"num_steps": 4},
    data="digits",
    augment=Augment(pad=1),
    epochs=20,
    batch_size=64,
    lr=2e-3,
    warmup_epochs=2,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=1.0,
)
