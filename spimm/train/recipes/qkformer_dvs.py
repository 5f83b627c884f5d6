"""QKFormer-2-256 on event cameras as published (Zhou et al. 2024): CIFAR10-DVS and DVS128 Gesture, T = 16 or 10.

Frames of equally many events; AdamW, batch 16, 10 epochs of warm-up and 10 of cool-down, weight decay 0.06, flips and
one of the wide policy's changes (identity, shear, shift, turn, cutout), mixup in half of the batches until epoch 75,
label smoothing. bf16 takes the place of their fp16. CIFAR10-DVS: the first 90 % of each class are for training.
DVS128 Gesture: 192 epochs as in the code, 200 in the paper.

Command: SPIMM_DATA=FOLDER spimm train {name}
"""

from dataclasses import replace

from spimm.data import Augment
from spimm.train.config import Recipe
from spimm.train.cost import estimate

_CIFAR10 = Recipe(
    name="qkformer_cifar10_dvs",
    model="qkformer_2_256_dvs",
    data="cifar10-dvs",
    frames=16,
    bins="count",
    augment=Augment(flip=True, event_policy="wide"),
    epochs=96,
    cooldown_epochs=10,
    batch_size=16,
    lr=5e-3,
    min_lr=1e-5,
    warmup_epochs=10,
    warmup_lr=1e-5,
    weight_decay=0.06,
    label_smoothing=0.1,
    mixup=0.5,
    mix_probability=0.5,
    mix_epochs=75,
    precision="bf16",
)
_GESTURE = replace(_CIFAR10, name="qkformer_dvs_gesture", data="dvs-gesture", epochs=192, lr=1e-3, min_lr=2e-5)
_TOP1 = (
    (_CIFAR10, 84.0),
    (replace(_CIFAR10, name="qkformer_cifar10_dvs_t10", frames=10), 83.8),
    (_GESTURE, 98.6),
    (replace(_GESTURE, name="qkformer_dvs_gesture_t10", frames=10), 98.3),
)
RECIPES = {recipe.name: recipe for recipe, _ in _TOP1}
NOTES = {
    recipe.name: f"Cost: {estimate(recipe)}\n"
    f"Expected: published {top1} % top-1; not run with this recipe\n"
    "Source: Zhou et al. 2024, the table of event-camera results; settings by the authors' code"
    for recipe, top1 in _TOP1
}
