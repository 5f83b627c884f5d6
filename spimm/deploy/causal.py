"""The same weights without the dynamic threshold: ReL-PSP neurons with a constant one (Zhang et al. 2020).

No windows: times are absolute and run on from layer to layer. V_j(t) = sum over t_i < t of w_ij (t - t_i); the neuron
fires where V_j first meets the threshold. Which inputs come before that, its causal set C, is not known beforehand: in
the order of their times each candidate is tried: t_j = (threshold + sum_C w t) / sum_C w if no next input is sooner.

N images, C channels, H W space, F features. A time is infinite where a neuron never fires.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from spimm.deploy.ttfs import spiking_chain_of
from spimm.layers import PSPConv2d, PSPLinear
from spimm.neurons import spike_times

AT_ONCE = 2**16
"""Neurons that are followed at a time, so that their potentials stay in the cache."""


@dataclass(frozen=True)
class CausalRun:
    """Logits [N, K], minus the times of the output neurons; times of each layer by name, in front of its pool."""

    logits: Tensor
    times: dict[str, Tensor]


@torch.no_grad()
def run_causal(model: nn.Module, x: Tensor, *, threshold: float = 1.0) -> CausalRun:
    """A network of spike times with a constant threshold and without windows. x: [N, C, H, W].

    The input code fires as it does in the network. Raises ValueError for a threshold that is not positive and for a
    model without spike times.
    """
    if not threshold > 0:
        raise ValueError(f"threshold is {threshold}; wanted more than 0")
    chain = spiking_chain_of(model)
    times = spike_times(chain.encode(x), chain.window)
    kept = {chain.code_name: times}
    for name, unit, pool in chain.layers:
        times = kept[name] = fire_times(unit.product, _earliest(times, pool), threshold)
    return CausalRun(-fire_times(chain.head, _earliest(times, chain.last_pool), threshold), kept)


def _earliest(times: Tensor, pool: int) -> Tensor:
    return times if pool == 1 else -max_pool2d(-times, pool)


def fire_times(product: nn.Module, times: Tensor, threshold: float) -> Tensor:
    """Times of the neurons behind a product, from its inputs'. [N, C, H, W] -> [N, C', H', W']; [N, F] -> [N, F'].

    Maps in front of a linear product are taken flat. Raises ValueError for another product.
    """
    if isinstance(product, PSPLinear):
        return first_crossings(times.flatten(1), product.weight, threshold)
    if not isinstance(product, PSPConv2d):
        raise ValueError(f"product is {product}; wanted PSPConv2d or PSPLinear")
    kernel, padding = product.weight.shape[-1], int(product.padding[0])
    around = pad(times, (padding,) * 4, value=math.inf)
    patches = around.unfold(2, kernel, 1).unfold(3, kernel, 1).movedim(1, 3)  # [N, H', W', C, k, k], a view
    rows = patches.flatten(3).flatten(0, 2)
    crossings = first_crossings(rows, product.weight.flatten(1), threshold)
    return crossings.view(*patches.shape[:3], -1).movedim(-1, 1)


def first_crossings(times: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """Where potentials first meet the threshold, exactly. times: [R, I], weight: [J, I] -> [R, J]."""
    silent = weight.new_zeros(1, len(weight))  # what inputs that never fire add, behind the weights of all inputs
    rows = max(1, AT_ONCE // len(weight))
    by_input = torch.cat([weight.T, silent])
    return torch.cat([_crossings(some, by_input, threshold) for some in times.split(rows)])


def _crossings(times: Tensor, weight: Tensor, threshold: float) -> Tensor:
    """One input of every row at a time, in their order. times: [R, I], weight: [I + 1, J] -> [R, J]."""
    times, inputs = pad(times, (0, 1), value=math.inf).sort(1)
    fired = times.isfinite()
    steps, following = int(fired.sum(1).max()), times[:, 1:]
    inputs, times = inputs.where(fired, len(weight) - 1), times.where(fired, 0)
    slope = weight.new_zeros(len(times), weight.shape[1])
    moment, out = torch.zeros_like(slope), torch.full_like(slope, math.inf)  # moment: sum of w t over the causal set
    waits = torch.ones_like(slope, dtype=torch.bool)
    for i in range(steps):
        gains = weight[inputs[:, i]]
        slope += gains
        moment.addcmul_(gains, times[:, i : i + 1])
        reaches = (slope * following[:, i : i + 1]).sub_(moment) >= threshold
        crosses = reaches.logical_and_(waits).view(-1).nonzero().squeeze(1)
        rate = slope.view(-1)[crosses]
        crosses, rate = crosses[rate > 0], rate[rate > 0]
        out.view(-1)[crosses] = (threshold + moment.view(-1)[crosses]) / rate
        waits.view(-1)[crosses] = False
    return out
