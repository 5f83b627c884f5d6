"""Meta-SpikeFormer on ImageNet from T = 1 to T = 4: the run of the same name without `_t4` is trained on at T = 4.

No parameter depends on T; `init_from=` names another start. The sources disagree: the paper has 20 epochs, to which the
authors' issue 8 adds 2 epochs of warm-up to 1e-5 for 32 images, and so has every recipe but the distilled one; that one
is their README's: 50 epochs, 5 of warm-up, lr = 2e-5 batch / 256, batch 192, with the teacher.

Command: SPIMM_DATA=FOLDER_WITH_TRAIN_AND_VAL spimm train {name}
"""

from dataclasses import replace

from spimm.train.config import Recipe
from spimm.train.cost import estimate
from spimm.train.recipes.metaspikeformer_imagenet import RECIPES as ONE_STEP
from spimm.train.recipes.metaspikeformer_imagenet import ROWS


def _recipe(start: str) -> Recipe:
    recipe = replace(ONE_STEP[start], name=f"{start}_t4", init_from=f"runs/{start}")
    recipe = replace(recipe, model_options={**recipe.model_options, "num_steps": 4})
    if ROWS[start].distilled:
        return replace(recipe, epochs=50, batch_size=192, lr=1.5e-5, warmup_epochs=5)
    return replace(recipe, epochs=20, batch_size=32, lr=1e-5, warmup_epochs=2)


RECIPES = {f"{start}_t4": _recipe(start) for start in ROWS}
NOTES = {
    f"{start}_t4": f"Cost: {estimate(RECIPES[f'{start}_t4'])}\n"
    f"Expected: published {row.four_steps} % top-1; not run with this recipe\n"
    "Source: Yao et al. 2024, the table of ImageNet results; settings by the authors' issue 8 or README"
    for start, row in ROWS.items()
}
