"""Meta-SpikeFormer, 18.3 M parameters, on HAR-DVS at T = 8 (Yao et al. 2024): 8 frames at 224 x 224, 300 classes.

The paper does not publish its settings. These are of the authors' later repository (V3) for the same data: AdamW,
lr = 4e-5 batch / 256, batch 72, 100 epochs, weight decay 0.01, averaged weights (0.999), gradient norm 1. Its
RandAugment (m7-mstd0.5-inc1), which is for pictures, is left out; the warm-up of 5 epochs and flips are ours.

Command: SPIMM_DATA=FOLDER spimm train metaspikeformer_har_dvs
Expected: published 47.5 % top-1; not run with this recipe
Source: Yao et al. 2024, the table of HAR-DVS results; model and loader by the authors' V3 repository
"""

from spimm.data import Augment
from spimm.train.config import Recipe
from spimm.train.cost import estimate

RECIPE = Recipe(
    name="metaspikeformer_har_dvs",
    model="metaspikeformer_18m_dvs",
    data="har-dvs",
    image_size=224,
    frames=8,
    augment=Augment(flip=True),
    epochs=100,
    batch_size=72,
    batch_parts=24,
    lr=1.125e-5,
    min_lr=1e-6,
    warmup_epochs=5,
    warmup_lr=0.0,
    weight_decay=0.01,
    clip_norm=1.0,
    ema_decay=0.999,
    precision="bf16",
    num_workers=8,
)
NOTES = {RECIPE.name: f"Cost: {estimate(RECIPE)}"}
