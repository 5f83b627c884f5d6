"""What is measured at layers of spike times.

P planes: 2 of spikes, what is left of the window when a neuron fires and whether it does; 1 of ordinary activations.
N images of all steps, steps first. Products are gated by the fired plane: a spike adds its weight to the slope of each
neuron behind it, once, whenever it comes. Pixels that an input code makes spikes of are no neurons of the network: they
are seen as the input of the first product. Neurons are those in front of the pools.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from spimm.analyze.ops import Probe, Work, probe
from spimm.layers import DirectCode, PSPConv2d, PSPLinear, Readout, as_spikes
from spimm.neurons import RelPSP, ReLU1, spike_times


@probe.register
def _(module: PSPConv2d) -> tuple[Probe, ...]:
    """k^2 Cin Cout H' W'."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("conv", module.weight.numel() * output.shape[-2] * output.shape[-1], gate=0),)

    return (Probe("conv", ("x",), work, leading=1, take=_fired, result=_first_plane),)


@probe.register
def _(module: PSPLinear) -> tuple[Probe, ...]:
    """Inputs times outputs."""

    def work(inputs: tuple[Tensor, ...], output: Tensor) -> tuple[Work, ...]:
        return (Work("linear", module.weight.numel(), gate=0),)

    return (Probe("linear", ("x",), work, leading=1, take=_fired, result=_first_plane),)


def _fired(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
    """The plane that says which neurons fired; the activations where they are the only one, as [N, F] are."""
    return (args[0] if args[0].dim() == 2 else args[0][-1],)


def _first_plane(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
    return output if output.dim() == 2 else output[0]


@probe.register
def _(module: RelPSP) -> tuple[Probe, ...]:
    def times(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        return spike_times(module.forward(args[0]), module.window) / module.window

    return (Probe("neuron", leading=1, result=times, timed=True),)


@probe.register
def _(module: ReLU1) -> tuple[Probe, ...]:
    return (_activations(lambda drive: module.forward(drive)[0]),)


@probe.register
def _(module: DirectCode) -> tuple[Probe, ...]:
    """The neurons that the first convolution drives."""

    def activation(images: Tensor) -> Tensor:
        return module.conv.forward(images).clamp(0, 1)

    def times(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        return spike_times(as_spikes(activation(args[0]), planes=2))

    if module.planes == 1:
        return (_activations(activation, ".neuron"),)
    return (Probe("neuron", suffix=".neuron", leading=1, result=times, timed=True),)


def _activations(activation: Callable[[Tensor], Tensor], suffix: str = "") -> Probe:
    """Of the ordinary twin: the activations are an input, so that it is seen how many are 0."""

    def take(args: tuple[Any, ...], count: int) -> tuple[Tensor, ...]:
        return (activation(args[0]),)

    return Probe("activation", ("a",), leading=1, take=take, result=_first_plane, suffix=suffix)


@probe.register
def _(module: Readout) -> tuple[Probe, ...]:
    """The output neurons. All count as spikes where their potential is read; where their time is, they are called."""

    def spikes(args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Tensor) -> Tensor:
        return torch.ones_like(output)

    if module.kind == "time" or not isinstance(module.neuron, RelPSP):
        return ()
    return (Probe("neuron", suffix=".neuron", leading=1, result=spikes),)
