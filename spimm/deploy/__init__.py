"""Models for inference: folded into convolutions and neurons."""

from spimm.deploy.fold import fold, fold_module, scale_threshold
from spimm.deploy.forms import Merge, MergeCost, cost_table, merge_costs
from spimm.deploy.linear import Convolve, Pad, Scale, Step, linear_steps, norm_scale
from spimm.deploy.merge import merge_convs

__all__ = [
    "Convolve",
    "Merge",
    "MergeCost",
    "Pad",
    "Scale",
    "Step",
    "cost_table",
    "fold",
    "fold_module",
    "linear_steps",
    "merge_convs",
    "merge_costs",
    "norm_scale",
    "scale_threshold",
]
