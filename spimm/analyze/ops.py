"""What is measured at each type of module, and how many operations it does.

A new type of layer is made known by registering its probe:

    @probe.register
    def _(module: MyCore) -> tuple[Probe, ...]: ...

T time, B batch, C channels, H W space, N = H W tokens, D width, h heads, d = D / h. Counts are dense: per step and
sample, as if no value were 0; batch norm, bias and SSA's scale fold into weights and thresholds and are not counted.
"""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from spimm.layers import ChannelMask, ConvNeuron, ConvNormNeuron, SpikeProduct, TokenMask
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


def _first_arguments(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
    return args[:count]


def _whole_output(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    return output


@dataclass(frozen=True)
class Probe:
    """One thing to measure at a module."""

    kind: str
    """conv, linear, attention, neuron (its output is checked to be 0 or 1), or a new kind."""
    inputs: tuple[str, ...] = ()
    """Names of the inputs whose values are counted."""
    work: Callable[[tuple[Tensor, ...], Tensor], tuple[Work, ...]] = _no_work
    """Products of a call from its inputs and output, each as [T, B, ...]."""
    leading: int | None = 2
    """Axes in front that hold steps and samples, steps first; None: the fewest that hold whole batches."""
    suffix: str = ""
    """Added to the module's name: `.neuron` for a neuron that only ever runs inside a fused op."""
    take: Callable[[tuple[Any, ...], int], tuple[Tensor, ...]] = _first_arguments
    """The `inputs`, so many, from the positional arguments of a call."""
    result: Callable[[tuple[Any, ...], Mapping[str, Any], Tensor], Tensor] = _whole_output
    """What the module is said to give, from the arguments and the output of a call; a neuron's spikes."""
    channel_axis: int = 2
    """Of a neuron's spikes as [T, B, ...]."""


@functools.singledispatch
def probe(module: nn.Module) -> tuple[Probe, ...]:
    """What to measure at `module`; nothing by default."""
    return ()


@probe.register
def _(module: nn.Conv2d) -> tuple[Probe, ...]:
    """k^2 Cin Cout H' W' / groups."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("conv", module.weight.numel() * output.shape[-2] * output.shape[-1], gate=0),)

    return (Probe("conv", ("x",), work, leading=1),)


@probe.register
def _(module: nn.Linear) -> tuple[Probe, ...]:
    """Inputs times outputs, for every position of a step."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("linear", module.weight.numel() * math.prod(output.shape[2:-1]), gate=0),)

    return (Probe("linear", ("x",), work, leading=None),)


@probe.register
def _(module: Neuron) -> tuple[Probe, ...]:
    return (Probe("neuron"),)


def _spikes_of_unit(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    added = kwargs.get("added")
    return output if added is None else output - added


@probe.register
def _(module: ConvNormNeuron | ConvNeuron) -> tuple[Probe, ...]:
    """The neuron that runs inside a fused op, before the residual shortcut is added to it."""
    return () if module.neuron is None else (Probe("neuron", suffix=".neuron", result=_spikes_of_unit),)


def _parts(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
    return args[0].chunk(count, dim=2)


@probe.register
def _(module: TokenMask) -> tuple[Probe, ...]:
    """N D additions, the sums of q over the channels of each head; the mask selects rows of k and adds nothing."""
    return _mask_probes(module, "row sums", channel_axis=-1)  # [T, B, H, W, h]: one mask a head


@probe.register
def _(module: ChannelMask) -> tuple[Probe, ...]:
    """N D additions, the sums of q over the tokens; the mask selects channels of k and adds nothing."""
    return _mask_probes(module, "column sums", channel_axis=2)


def _mask_probes(module: TokenMask | ChannelMask, sums: str, channel_axis: int) -> tuple[Probe, ...]:
    def mask(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        return module.mask(args[0])

    return (
        Probe("neuron", suffix=".neuron", result=mask, channel_axis=channel_axis),
        Probe("attention", ("q", "k"), partial(_sums_of_q, sums), take=_parts),
    )


def _sums_of_q(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
    return (Work(name, inputs[0][0, 0].numel(), gate=0),)


@probe.register
def _(module: SpikeProduct) -> tuple[Probe, ...]:
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

    return (Probe("attention", ("q", "k", "v"), work, take=_parts),)
