"""What is measured at each type of module, and how many operations it does.

A new type of layer is made known by registering its probe:

    @probe.register
    def _(module: MyCore) -> Probe: ...

T time, B batch, C channels, H W space, N = H W tokens, D width, h heads, d = D / h. Counts are dense: per step and
sample, as if no value were 0; batch norm, bias and SSA's scale fold into weights and thresholds and are not counted.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spimm.layers import ChannelMask, ConvNormNeuron, SpikeProduct, TokenMask
from spimm.neurons import Neuron


class Work(NamedTuple):
    """One product that a layer computes in a call."""

    name: str
    dense: int
    """Operations per step and sample."""
    gate: int
    """Index of the input whose non-zero values cause them."""
    paired: int | None = None
    """Additions of the whole call in which neither operand is 0; None where the other operand is no spike train."""


def _no_work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
    return ()


@dataclass(frozen=True)
class Probe:
    """What to measure at a module."""

    kind: str
    """conv, linear, attention, neuron (its output is checked to be 0 or 1), or a new kind."""
    inputs: tuple[str, ...] = ()
    """Names of the positional inputs whose values are counted."""
    work: Callable[[tuple[Tensor, ...], Tensor], tuple[Work, ...]] = _no_work
    """Products of a call from its inputs and output, each as [T, B, ...]."""
    leading: int | None = 2
    """Axes in front that hold steps and samples, steps first; None: the fewest that hold whole batches."""
    suffix: str = ""
    """Added to the module's name: `.neuron` for a neuron that only ever runs inside a fused op."""


@functools.singledispatch
def probe(module: nn.Module) -> Probe | None:
    """What to measure at `module`; None for nothing."""
    return None


@functools.singledispatch
def channel_axes(module: nn.Module) -> dict[nn.Module, int]:
    """Channel axis of the outputs of neurons inside `module`, where it is not 2 as in [T, B, C, ...]."""
    return {}


@probe.register
def _(module: nn.Conv2d) -> Probe:
    """k^2 Cin Cout H' W' / groups."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("conv", module.weight.numel() * output.shape[-2] * output.shape[-1], gate=0),)

    return Probe("conv", ("x",), work, leading=1)


@probe.register
def _(module: nn.Linear) -> Probe:
    """Inputs times outputs, for every position of a step."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("linear", module.weight.numel() * math.prod(output.shape[2:-1]), gate=0),)

    return Probe("linear", ("x",), work, leading=None)


@probe.register
def _(module: Neuron) -> Probe:
    return Probe("neuron")


@probe.register
def _(module: ConvNormNeuron) -> Probe | None:
    """The neuron that is fused with the norm; behind a pool it is a module that is called, with a probe of its own."""
    fused = module.neuron is not None and module.pool is None
    return Probe("neuron", suffix=".neuron") if fused else None


@probe.register
def _(module: TokenMask) -> Probe:
    """N D additions, the sums of q over the channels of each head; the mask selects rows of k and adds nothing."""
    return Probe("attention", ("q", "k"), partial(_sums_of_q, "row sums"))


@channel_axes.register
def _(module: TokenMask) -> dict[nn.Module, int]:
    return {module.neuron: -1}  # [T, B, H, W, h]: one mask a head


@probe.register
def _(module: ChannelMask) -> Probe:
    """N D additions, the sums of q over the tokens; the mask selects channels of k and adds nothing."""
    return Probe("attention", ("q", "k"), partial(_sums_of_q, "column sums"))


def _sums_of_q(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
    return (Work(name, inputs[0][0, 0].numel(), gate=0),)


@probe.register
def _(module: SpikeProduct) -> Probe:
    """k^T v, then q (k^T v): N D d additions each.

    A spike of k adds the row of v of its token and head, a spike of q adds a row of k^T v: the first operand gates the
    additions, the second stands where a weight would. v is a spike train too: `paired` counts k^T v where both fire.
    """

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        width = inputs[0].shape[2] // module.num_heads
        dense = inputs[0][0, 0].numel() * width
        per_token = [torch.count_nonzero(x.unflatten(2, (-1, width)), dim=3) for x in inputs[1:]]  # [T, B, h, H, W]
        paired = int((per_token[0] * per_token[1]).sum())
        return Work("k^T v", dense, gate=1, paired=paired), Work("q (k^T v)", dense, gate=0)

    return Probe("attention", ("q", "k", "v"), work)
