"""Ablations of Meta-SpikeFormer with 31.3 M parameters on ImageNet at T = 1 (Yao et al. 2024): a row, a recipe each.

The settings are those of `metaspikeformer_imagenet_31m`, the row without changes. The paper's fully convolutional row
(36.0 M, 72.5 %) is left out, since no construction that it describes gives that size.

Command: SPIMM_DATA=FOLDER_WITH_TRAIN_AND_VAL spimm train {name}
"""

import math
from dataclasses import replace
from typing import Any

from spimm.models.metaspikeformer import ABLATIONS
from spimm.train.config import Recipe
from spimm.train.cost import estimate
from spimm.train.recipes.metaspikeformer_imagenet import RECIPES as FULL


def _text(value: Any) -> Any:
    """An option as a recipe holds it: several numbers or names as one text."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else value


def _recipe(row: str) -> Recipe:
    options = {key: _text(value) for key, value in ABLATIONS[row].options.items()}
    base = FULL["metaspikeformer_imagenet_31m"]
    return replace(base, name=f"metaspikeformer_imagenet_{row}", model_options={**base.model_options, **options})


def _expected(top1: float) -> str:
    return "published: does not converge" if math.isnan(top1) else f"published {top1} % top-1"


RECIPES = {f"metaspikeformer_imagenet_{row}": _recipe(row) for row in ABLATIONS}
NOTES = {
    f"metaspikeformer_imagenet_{row}": f"Cost: {estimate(RECIPES[f'metaspikeformer_imagenet_{row}'])}\n"
    f"Expected: {_expected(printed.top1)}; not run with this recipe\n"
    "Source: Yao et al. 2024, the table of ablations"
    for row, printed in ABLATIONS.items()
}
