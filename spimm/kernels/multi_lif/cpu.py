"""Several LIFs with one input through the compiled extension, channels-last; the backward recomputes the potentials."""

from collections.abc import Sequence

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import NO_NORM, STORAGE, Coefficients, NeuronCode, channels_last, extension, num_threads
from spimm.kernels.door import NOTHING, Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.multi_lif import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(f"multi_lif(Tensor x, Tensor coefficients, int num_steps, bool concat, {NeuronCode.SCHEMA}) -> Tensor")
_library.define(
    "multi_lif_backward(Tensor grad_out, Tensor x, Tensor coefficients, int num_steps, bool concat, bool learns, "
    f"{NeuronCode.SCHEMA}) -> (Tensor, Tensor)"
)


def multi_lif(
    x: Tensor, dynamics: Dynamics, thresholds: Sequence[float] | Tensor, *, num_steps: int, combine: str
) -> Tensor:
    """As reference.multi_lif."""
    coefficients, concat = dynamics.coefficients(thresholds), combine == "concat" and len(thresholds) > 1
    return torch.ops.spimm.multi_lif(channels_last(x), coefficients, num_steps, concat, *NeuronCode.of(dynamics))


def _extent(x: Tensor, num_steps: int, concat: bool) -> tuple[int, int, int, bool]:
    """Where branches are summed, the channels carry no meaning."""
    channels = x.shape[2] if concat else 1
    return num_steps, x[0].numel() // max(1, channels), channels, len(x) != num_steps


def _empty_out(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool) -> Tensor:
    channels = x.shape[2] * (len(coefficients) - 2 if concat else 1)
    return x.new_empty((num_steps, x.shape[1], *x.shape[3:], channels)).movedim(-1, 2)


@torch.library.impl(_library, "multi_lif", "CPU")
def _forward(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, *code: int) -> Tensor:
    settings, out = Coefficients(coefficients, code), _empty_out(x, coefficients, num_steps, concat)
    common = STORAGE[x.dtype], settings.neuron, _extent(x, num_steps, concat)
    given, made = Layout.like(x, 2).address("x", x), Layout.like(out, 2).address("out", out)
    if concat:
        extension().multi_lif_forward(*common, num_threads(), *settings.thresholds, given, made)
    else:
        arrays = given, NOTHING, NOTHING, NOTHING, made, NOTHING, NOTHING
        extension().lif_forward(*common, NO_NORM, num_threads(), *arrays, *settings.thresholds)
    return out


@torch.library.register_fake("spimm::multi_lif", lib=_library)
def _forward_fake(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, *code: int) -> Tensor:
    return _empty_out(x, coefficients, num_steps, concat)


@torch.library.impl(_library, "multi_lif_backward", "CPU")
def _backward(
    grad_out: Tensor, x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    settings, grad_out, grad_x = Coefficients(coefficients, code), channels_last(grad_out), torch.empty_like(x)
    grad_coefficients = coefficients.new_empty(len(coefficients) if learns else 0)
    to_coefficients = Layout.like(coefficients).address("grad_coefficients", grad_coefficients if learns else None)
    inputs, channels = Layout.like(x, 2), x.shape[2] * (len(coefficients) - 2 if concat else 1)
    outputs = Layout.of(x.dtype, (num_steps, x.shape[1], channels, *x.shape[3:]), 2)
    given, got = inputs.address("x", x), outputs.address("grad_out", grad_out)
    to_x = inputs.address("grad_x", grad_x)
    common = STORAGE[x.dtype], settings.neuron, _extent(x, num_steps, concat)
    if concat:
        arrays = given, got, to_x, to_coefficients
        extension().multi_lif_backward(*common, num_threads(), *settings.thresholds, *arrays)
    else:
        nothing = [NOTHING] * 4
        arrays = given, *nothing[:3], got, *nothing[:2], to_x, *nothing, to_coefficients
        extension().lif_backward(*common, NO_NORM, num_threads(), *arrays, *settings.thresholds)
    return grad_x, grad_coefficients


@torch.library.register_fake("spimm::multi_lif_backward", lib=_library)
def _backward_fake(
    grad_out: Tensor, x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), coefficients.new_empty(len(coefficients) if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    x, coefficients, *ctx.settings = inputs
    ctx.save_for_backward(x, coefficients)


def _autograd(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    if second.wanted():
        return *_differentiable(ctx, grad_out), *[None] * 7
    x, coefficients = ctx.saved_tensors
    num_steps, concat, *code = ctx.settings
    learns = ctx.needs_input_grad[1]
    grad_x, grad_coefficients = torch.ops.spimm.multi_lif_backward(
        grad_out, x, coefficients, num_steps, concat, learns, *code
    )
    return grad_x, grad_coefficients if learns else None, *[None] * 7


def _differentiable(ctx, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of x and coefficients by the reference."""
    num_steps, concat, *code = ctx.settings

    def run(x: Tensor, coefficients: Tensor) -> Tensor:
        combine, dynamics = "concat" if concat else "sum", NeuronCode(*code).dynamics(coefficients)
        return reference.multi_lif(x.float(), dynamics, coefficients[2:], num_steps=num_steps, combine=combine)

    return second.gradients("multi_lif", run, ctx.saved_tensors, ctx.needs_input_grad[:2], (grad_out,))


torch.library.register_autograd("spimm::multi_lif", _autograd, setup_context=_setup_context, lib=_library)
