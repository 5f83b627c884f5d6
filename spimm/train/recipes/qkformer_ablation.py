"""Ablations of QKFormer on CIFAR-100 and CIFAR10-DVS (Zhou et al. 2024): a row of the paper's tables, a recipe each.

The settings are those of `qkformer_cifar100` and `qkformer_cifar10_dvs`, the rows without changes. What a row stands
for is said in spimm/models/qkformer.py. The paper's rows with Spikformer are of another network, which is not here.

Command: SPIMM_DATA=FOLDER spimm train {name}
"""

from dataclasses import replace

from spimm.models.qkformer import CIFAR10_DVS_ABLATIONS, CIFAR100_ABLATIONS, Ablation
from spimm.train.config import Recipe
from spimm.train.cost import estimate
from spimm.train.recipes.qkformer_cifar import RECIPES as CIFAR
from spimm.train.recipes.qkformer_dvs import RECIPES as DVS

_FAMILIES = (
    (CIFAR["qkformer_cifar100"], CIFAR100_ABLATIONS),
    (DVS["qkformer_cifar10_dvs"], CIFAR10_DVS_ABLATIONS),
)


def _recipe(base: Recipe, row: str, ablation: Ablation) -> Recipe:
    return replace(base, name=f"{base.name}_{row}", model_options={**base.model_options, **ablation.options})


_TOP1 = [(_recipe(base, row, ablation), ablation.top1) for base, rows in _FAMILIES for row, ablation in rows.items()]
RECIPES = {recipe.name: recipe for recipe, _ in _TOP1}
NOTES = {
    recipe.name: f"Cost: {estimate(recipe)}\n"
    f"Expected: published {top1} % top-1; not run with this recipe\n"
    "Source: Zhou et al. 2024, the tables of ablations"
    for recipe, top1 in _TOP1
}
