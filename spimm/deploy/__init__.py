"""Models for inference: folded, with weights of few bits, and networks of spike times run as chips run them."""

from spimm.deploy.activity import LayerActivity, Raster, compare_activity, raster_constant, raster_dynamic
from spimm.deploy.causal import CausalRun, run_causal
from spimm.deploy.event_driven import EventRun, run_event_driven
from spimm.deploy.fold import fold, fold_module, scale_threshold
from spimm.deploy.forms import Merge, MergeCost, cost_table, merge_costs
from spimm.deploy.linear import Convolve, Pad, Scale, Step, linear_steps, norm_scale
from spimm.deploy.merge import merge_convs
from spimm.deploy.quantise import (
    Sizes,
    load_quantised,
    quantise,
    quantised_sizes,
    save_quantised,
)
from spimm.deploy.stepwise import Output, Threshold, run_stepwise
from spimm.deploy.ttfs import Run, run_closed_form
from spimm.layers import quantised_weights

__all__ = [
    "CausalRun",
    "Convolve",
    "EventRun",
    "LayerActivity",
    "Merge",
    "MergeCost",
    "Output",
    "Pad",
    "Raster",
    "Run",
    "Scale",
    "Sizes",
    "Step",
    "Threshold",
    "compare_activity",
    "cost_table",
    "fold",
    "fold_module",
    "linear_steps",
    "load_quantised",
    "merge_convs",
    "merge_costs",
    "norm_scale",
    "quantise",
    "quantised_sizes",
    "quantised_weights",
    "raster_constant",
    "raster_dynamic",
    "run_causal",
    "run_closed_form",
    "run_event_driven",
    "run_stepwise",
    "save_quantised",
    "scale_threshold",
]
