"""Cases of an SPK block of SpikeAtConv alone, forward and backward: MBPL with the paper's four thresholds, and SL.

The surrogate is ATan. Checked against the float64 reference on the same values, spikes and gradient.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from spimm.bench import peers
from spimm.bench.kernels import LIF_PASSES, LIF_SHAPE, QUICK_SHAPE, Problem
from spimm.bench.ops import OpPlan, Side, Truth, channels_last, traffic
from spimm.bench.precision import PRECISIONS
from spimm.bench.registry import Options, Plan, Ratio, register_case
from spimm.layers import THRESHOLDS
from spimm.neurons import LIF, MultiLIF
from spimm.surrogate import ATan

MOST_OVER_SL = 1.6
"""Goal: times of MBPL over those of SL, at most."""
OVER_PEER = 8.0
"""Goal: times of as many neurons of SpikingJelly over those of MBPL, at least."""


def _plan(shape: tuple[int, ...], options: Options) -> Plan:
    """Peers get contiguous memory, ours channels-last."""
    thresholds = THRESHOLDS["mbpl"]
    setting: dict[str, object] = {"shape [T, B, C, H, W]": list(shape), "thresholds": list(thresholds)}
    case = OpPlan(options, setting, traffic(torch.Size(shape).numel(), LIF_PASSES))
    neuron = LIF(surrogate=ATan())
    blocks: dict[str, tuple[nn.Module, Sequence[float]]] = {
        "spimm mbpl": (MultiLIF(neuron, thresholds), thresholds),
        "spimm sl": (neuron, THRESHOLDS["sl"]),
    }
    if options.peers:
        blocks["spikingjelly"] = (peers.PeerMultiLIF(thresholds, surrogate="atan"), thresholds)
    for precision, dtype in PRECISIONS.items():
        problem = Problem.make(shape, dtype, norm=False)
        truths = {values: partial(problem.branches_truth, values, ATan()) for _, values in blocks.values()}
        for name, (block, values) in blocks.items():
            case.add(name, _side(block, problem, precision, truths[values], ours=name.startswith("spimm")))
    ratios = [Ratio(f"spimm sl {precision}", f"spimm mbpl {precision}", 1 / MOST_OVER_SL) for precision in PRECISIONS]
    ratios += [Ratio(f"spikingjelly {precision}", f"spimm mbpl {precision}", OVER_PEER) for precision in PRECISIONS]
    return case.plan(ratios)


def _side(block: nn.Module, problem: Problem, precision: str, truth: Callable[[], Truth], *, ours: bool) -> Side:
    laid_out = channels_last if ours else Tensor.clone
    return Side(block, {"x": laid_out(problem.x)}, (laid_out(problem.grad),), precision, truth=truth, ours=ours)


@register_case("mbpl", "MBPL with four branches and SL, SPK blocks alone, T = 4; forward and backward")
def mbpl(options: Options) -> Plan:
    """Goals: 8 times the speed of four SpikingJelly neurons, 1.6 times the time of SL at most."""
    return _plan(QUICK_SHAPE if options.quick else LIF_SHAPE, options)


@register_case("mbpl_t1", "MBPL with four branches and SL, SPK blocks alone, T = 1; forward and backward")
def mbpl_t1(options: Options) -> Plan:
    """Goals as `mbpl`."""
    return _plan((1, *(QUICK_SHAPE if options.quick else LIF_SHAPE)[1:]), options)
