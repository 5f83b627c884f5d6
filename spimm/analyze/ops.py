"""What is measured at each type of module, and how many operations it does. Attention cores are in `attention_ops`.

A new type of layer is made known by registering its probe:

    @probe.register
    def _(module: MyCore) -> tuple[Probe, ...]: ...

T time, B batch, C channels, H W space. Counts are dense: per step and sample, as if no value were 0; batch norm, bias
and the scale of attention fold into weights and thresholds and are not counted.
"""

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from spimm.layers import ConvNeuron, ConvUnit
from spimm.neurons import MultiLIF, Neuron


class Work(NamedTuple):
    """One product that a layer computes in a call."""

    name: str
    dense: int
    """Operations per step and sample."""
    gate: int
    """Index of the input whose non-zero values cause them."""
    paired: int | None = None
    """Additions of the whole call in which neither operand is 0; None where the other operand is no spike train."""
    undivided: int | None = None
    """`dense` with one head as wide as all channels; None: the same."""
    softmax: bool = False
    """One of the two products around a softmax."""


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
    timed: bool = False
    """The result is spike times from 0 to 1, infinite where a neuron is silent, and no spikes."""

    @property
    def counts(self) -> bool:
        """Whether it counts the operations of its module."""
        return self.work is not _no_work


@functools.singledispatch
def probe(module: nn.Module) -> tuple[Probe, ...]:
    """What to measure at `module`; nothing by default."""
    return ()


def probes_of(model: nn.Module) -> Iterator[tuple[str, nn.Module, Probe]]:
    """Everything to measure in `model`: the label of the layer, the module, the probe.

    A neuron that is measured at the module around it has no probe of its own: a hook would make it run by itself.
    """
    seen: set[str] = set()
    within = {module.neuron for module in model.modules() if isinstance(module, MultiLIF)}
    for name, module in model.named_modules():
        found = () if module in within else probe(module)
        labels = [(name + part.suffix).removeprefix(".") for part in found]
        yield from ((label, module, part) for label, part in zip(labels, found, strict=True) if label not in seen)
        seen.update(labels)


@probe.register
def _(module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> tuple[Probe, ...]:
    """k^2 Cin Cout H' W' / groups, for maps of any number of axes."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("conv", module.weight.numel() * math.prod(output.shape[3:]), gate=0),)

    return (Probe("conv", ("x",), work, leading=1),)


@probe.register
def _(module: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d) -> tuple[Probe, ...]:
    """k^2 Cin Cout H W / groups: each value of the input meets every weight of its channel, as a spike does."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("conv", module.weight.numel() * math.prod(inputs[0].shape[3:]), gate=0),)

    return (Probe("conv", ("x",), work, leading=1),)


@probe.register
def _(module: _NormBase | nn.GroupNorm | nn.LayerNorm | nn.RMSNorm | nn.PReLU | nn.Embedding) -> tuple[Probe, ...]:
    """Norms, scales and look-ups of a row multiply no matrices and are not counted."""
    return ()


@probe.register
def _(module: nn.Linear) -> tuple[Probe, ...]:
    """Inputs times outputs, for every position of a step."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("linear", module.weight.numel() * math.prod(output.shape[2:-1]), gate=0),)

    return (Probe("linear", ("x",), work, leading=None),)


@probe.register
def _(module: Neuron) -> tuple[Probe, ...]:
    return (Probe("neuron"),)


@probe.register
def _(module: ConvUnit | ConvNeuron) -> tuple[Probe, ...]:
    """The neurons that run inside a fused op: the output, less the shortcut where that is added behind the neuron.

    A block in the place of the neuron is called, and has a probe of its own.
    """

    def spikes(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        added = kwargs.get("added")
        return output if added is None or module.adds_first else output - added

    def branches(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> tuple[Tensor, ...]:
        return module.branches(*args, **kwargs)  # type: ignore[union-attr]

    if isinstance(module.neuron, Neuron):
        return (Probe("neuron", suffix=".neuron", result=spikes),)
    fused = isinstance(module, ConvUnit) and module.fuses and isinstance(module.neuron, MultiLIF)
    return branch_probes(module.neuron, branches, ".neuron") if fused else ()  # type: ignore[arg-type]


@probe.register
def _(module: MultiLIF) -> tuple[Probe, ...]:
    def branches(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> tuple[Tensor, ...]:
        return module.branches(*args, **kwargs)

    return branch_probes(module, branches)


def branch_probes(spikes: MultiLIF, branches: Callable[..., tuple[Tensor, ...]], suffix: str = "") -> tuple[Probe, ...]:
    """A neuron for each threshold, named by it: `[0.2]` behind the suffix.

    `branches` gives their spikes, [T, B, C, H, W] each, from the arguments and the output of a call, once for all.
    """
    waiting: list[Tensor] = []

    def fired(index: int, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        if index == 0:  # hooks run in the order of the probes
            waiting[:] = branches(args, kwargs, output)
        return waiting.pop(0)

    return tuple(
        Probe("neuron", suffix=f"{suffix}[{threshold:g}]", result=functools.partial(fired, index))
        for index, threshold in enumerate(spikes.thresholds)
    )
