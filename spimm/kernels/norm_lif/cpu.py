"""Batch norm, residual and LIF through the compiled extension, channels-last; the backward recomputes the potentials.

Saved for backward: the input, the residual (or the membrane) and per-channel numbers; the potentials never.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import (
    STORAGE,
    Coefficients,
    NeuronCode,
    channels_last,
    empty_steps,
    extension,
    num_threads,
)
from spimm.kernels.door import NOTHING, Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_FORWARD = (
    "Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? variance, Tensor? residual, {added}"
    f"Tensor coefficients, int num_steps, float eps, {NeuronCode.SCHEMA}"
)
_library.define(f"norm_lif({_FORWARD.format(added='Tensor? added, ')}) -> (Tensor, Tensor, Tensor)")
_library.define(f"norm_lif_membrane({_FORWARD.format(added='')}) -> (Tensor, Tensor, Tensor, Tensor)")
_library.define(
    "norm_lif_backward(Tensor grad_spikes, Tensor? grad_membrane, Tensor x, Tensor weight, Tensor bias, Tensor mean, "
    "Tensor variance, Tensor? residual, Tensor? membrane, bool to_residual, Tensor coefficients, bool of_batch, "
    f"bool learns, float eps, {NeuronCode.SCHEMA}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def norm_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    added: Tensor | None = None,
    thresholds: Sequence[float] | None = None,
    *,
    num_steps: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.norm_lif."""
    return torch.ops.spimm.norm_lif(
        *_numbers(x, weight, bias, mean, variance), _like_input(residual, x), _like_input(added, x),
        dynamics.coefficients(thresholds), num_steps, eps, *NeuronCode.of(dynamics),
    )  # fmt: skip


def norm_lif_membrane(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    *,
    num_steps: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """As reference.norm_lif_membrane, stored in the dtype of x."""
    return torch.ops.spimm.norm_lif_membrane(
        *_numbers(x, weight, bias, mean, variance), _like_input(residual, x), dynamics.coefficients(), num_steps, eps,
        *NeuronCode.of(dynamics),
    )  # fmt: skip


def _like_input(tensor: Tensor | None, x: Tensor) -> Tensor | None:
    return None if tensor is None else channels_last(tensor.to(x.dtype))


def _numbers(x: Tensor, *per_channel: Tensor | None) -> tuple[Tensor | None, ...]:
    return channels_last(x), *(None if tensor is None else tensor.float().contiguous() for tensor in per_channel)


def _extent(x: Tensor, num_steps: int) -> tuple[int, int, int, bool]:
    channels = x.shape[2]
    return num_steps, x[0].numel() // channels, channels, len(x) != num_steps


class Norm(NamedTuple):
    """The numbers of a batch norm for each channel, as the extension takes them."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor

    def addresses(self, channels: int, eps: float, of_batch: bool) -> tuple[int | float | bool, ...]:
        layout = Layout.of(torch.float32, (channels,))
        return *map(layout.address, self._fields, self), eps, of_batch


def _run(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    added: Tensor | None, membrane: Tensor | None, coefficients: Tensor, num_steps: int, eps: float,
    code: tuple[int, ...],
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    if mean is None or variance is None:
        used, of_batch = (torch.empty_like(weight), torch.empty_like(weight)), True
    else:
        used, of_batch = (mean.clone(), variance.clone()), False
    norm = Norm(weight, bias, *used).addresses(x.shape[2], eps, of_batch)
    out, settings = empty_steps(x, num_steps), Coefficients(coefficients, code)
    steps = Layout.of(x.dtype, (num_steps, *x.shape[1:]), 2)
    extension().lif_forward(
        STORAGE[x.dtype], settings.neuron, _extent(x, num_steps), norm, num_threads(),
        Layout.like(x, 2).address("x", x), steps.address("residual", residual), steps.address("added", added), NOTHING,
        steps.address("out", out), NOTHING, steps.address("membrane", membrane), *settings.thresholds,
    )  # fmt: skip
    return out, *used


@torch.library.impl(_library, "norm_lif", "CPU")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    added: Tensor | None, coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _run(x, weight, bias, mean, variance, residual, added, None, coefficients, num_steps, eps, code)


@torch.library.register_fake("spimm::norm_lif", lib=_library)
def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    added: Tensor | None, coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return empty_steps(x, num_steps), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.impl(_library, "norm_lif_membrane", "CPU")
def _membrane_forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    membrane = empty_steps(x, num_steps)
    settings = (coefficients, num_steps, eps, code)
    return membrane, *_run(x, weight, bias, mean, variance, residual, None, membrane, *settings)


@torch.library.register_fake("spimm::norm_lif_membrane", lib=_library)
def _membrane_forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    steps = (empty_steps(x, num_steps), empty_steps(x, num_steps))
    return *steps, torch.empty_like(weight), torch.empty_like(weight)


@torch.library.impl(_library, "norm_lif_backward", "CPU")
def _backward(
    grad_spikes: Tensor, grad_membrane: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
    variance: Tensor, residual: Tensor | None, membrane: Tensor | None, to_residual: bool, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    num_steps, settings = len(grad_spikes), Coefficients(coefficients, code)
    grad_spikes, grad_membrane = channels_last(grad_spikes), _like_input(grad_membrane, x)
    grads = _empty_gradients(x, weight, num_steps, to_residual, coefficients, learns)
    grad_x, grad_weight, grad_bias, grad_residual, grad_coefficients = grads
    norm = Norm(weight, bias, mean, variance).addresses(x.shape[2], eps, of_batch)
    inputs, steps = Layout.like(x, 2), Layout.of(x.dtype, (num_steps, *x.shape[1:]), 2)
    numbers, learnt = Layout.of(torch.float32, (x.shape[2],)), Layout.like(coefficients)
    extension().lif_backward(
        STORAGE[x.dtype], settings.neuron, _extent(x, num_steps), norm, num_threads(), inputs.address("x", x),
        steps.address("residual", residual), steps.address("membrane", membrane), NOTHING,
        steps.address("grad_spikes", grad_spikes), NOTHING, steps.address("grad_membrane", grad_membrane),
        inputs.address("grad_x", grad_x), steps.address("grad_residual", grad_residual if to_residual else None),
        NOTHING, numbers.address("grad_weight", grad_weight), numbers.address("grad_bias", grad_bias),
        learnt.address("grad_coefficients", grad_coefficients if learns else None), *settings.thresholds,
    )  # fmt: skip
    return grads


@torch.library.register_fake("spimm::norm_lif_backward", lib=_library)
def _backward_fake(
    grad_spikes: Tensor, grad_membrane: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
    variance: Tensor, residual: Tensor | None, membrane: Tensor | None, to_residual: bool, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(x, weight, len(grad_spikes), to_residual, coefficients, learns)


def _empty_gradients(
    x: Tensor, weight: Tensor, num_steps: int, to_residual: bool, coefficients: Tensor, learns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Of x, weight, bias, residual and the coefficients; without elements where nobody asks."""
    grad_residual = empty_steps(x, num_steps) if to_residual else x.new_empty(0)
    per_channel = (torch.empty_like(weight), torch.empty_like(weight))
    return torch.empty_like(x), *per_channel, grad_residual, coefficients.new_empty(len(coefficients) if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, given_mean, _, residual, added, coefficients, ctx.num_steps, ctx.eps, *ctx.code = inputs
    _, mean, variance = output
    ctx.of_batch, ctx.has_added = given_mean is None, added is not None
    ctx.mark_non_differentiable(mean, variance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, variance, residual, coefficients)


def _autograd(ctx, grad_out: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 15
    if grad_out is None:
        return tuple(nothing)
    if second.wanted():
        nothing[0], nothing[1], nothing[2], nothing[5], nothing[7] = _differentiable(ctx, grad_out)
        nothing[6] = grad_out if ctx.has_added else None
        return tuple(nothing)
    x, weight, bias, mean, variance, residual, coefficients = ctx.saved_tensors
    learns = ctx.needs_input_grad[7]
    *nothing[:3], grad_residual, grad_coefficients = torch.ops.spimm.norm_lif_backward(
        grad_out, None, x, weight, bias, mean, variance, residual, None, residual is not None, coefficients,
        ctx.of_batch, learns, ctx.eps, *ctx.code,
    )  # fmt: skip
    nothing[5] = grad_residual if residual is not None else None
    nothing[6] = grad_out if ctx.has_added else None
    nothing[7] = grad_coefficients if learns else None
    return tuple(nothing)


def _membrane_setup_context(ctx, inputs, output) -> None:
    x, weight, bias, given_mean, _, residual, coefficients, ctx.num_steps, ctx.eps, *ctx.code = inputs
    membrane, _, mean, variance = output
    ctx.of_batch, ctx.to_residual = given_mean is None, residual is not None
    ctx.mark_non_differentiable(mean, variance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, variance, membrane, coefficients)


def _membrane_autograd(
    ctx, grad_membrane: Tensor | None, grad_spikes: Tensor | None, *_: Tensor | None
) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 14
    if grad_membrane is None and grad_spikes is None:
        return tuple(nothing)
    if second.wanted():
        nothing[0], nothing[1], nothing[2], nothing[5], nothing[6] = _membrane_differentiable(
            ctx, grad_membrane, grad_spikes
        )
        return tuple(nothing)
    x, weight, bias, mean, variance, membrane, coefficients = ctx.saved_tensors
    learns = ctx.needs_input_grad[6]
    if grad_spikes is None:
        grad_spikes = torch.zeros_like(membrane)
    *nothing[:3], grad_residual, grad_coefficients = torch.ops.spimm.norm_lif_backward(
        grad_spikes, grad_membrane, x, weight, bias, mean, variance, None, membrane, ctx.to_residual, coefficients,
        ctx.of_batch, learns, ctx.eps, *ctx.code,
    )  # fmt: skip
    nothing[5] = grad_residual if ctx.to_residual else None
    nothing[6] = grad_coefficients if learns else None
    return tuple(nothing)


def _differentiable(ctx, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight, bias, residual and coefficients by the reference."""
    x, weight, bias, mean, variance, residual, coefficients = ctx.saved_tensors
    given = (None, None) if ctx.of_batch else (mean, variance)

    def run(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor | None, coefficients: Tensor) -> Tensor:
        dynamics, settings = NeuronCode(*ctx.code).dynamics(coefficients), {"num_steps": ctx.num_steps, "eps": ctx.eps}
        thresholds = coefficients[2:] if len(coefficients) > 3 else None
        before = None if residual is None else residual.float()
        numbers = (x.float(), weight, bias, dynamics, *given, before, None, thresholds)
        return reference.norm_lif(*numbers, **settings)[0]  # type: ignore[arg-type]

    needed = [ctx.needs_input_grad[i] for i in (0, 1, 2, 5, 7)]
    return second.gradients("norm_lif", run, (x, weight, bias, residual, coefficients), needed, (grad_out,))


def _membrane_differentiable(ctx, grad_membrane: Tensor | None, grad_spikes: Tensor | None) -> list[Tensor | None]:
    """The gradients of x, weight, bias, residual and coefficients by the reference, through the membrane as stored."""
    x, weight, bias, mean, variance, membrane, coefficients = ctx.saved_tensors
    given = (None, None) if ctx.of_batch else (mean, variance)

    def fire(z: Tensor, coefficients: Tensor) -> Tensor:
        dynamics = NeuronCode(*ctx.code).dynamics(coefficients)
        return lif_reference.lif(z.float(), dynamics, num_steps=ctx.num_steps)[0]

    def norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        z, *_ = reference.membrane(x.float(), weight, bias, *given, None, eps=ctx.eps)
        return z.expand(ctx.num_steps, *z.shape[1:])

    needs, learns = ctx.needs_input_grad, ctx.needs_input_grad[6]
    of_z, of_coefficients = second.gradients(
        "norm_lif_membrane", fire, (membrane, coefficients), (True, learns), (grad_spikes,)
    )
    parts = [grad for grad in (of_z, grad_membrane) if grad is not None]
    grad_z = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    found = second.gradients("norm_lif_membrane", norm, (x, weight, bias), needs[:3], (grad_z,))
    return [*found, grad_z if ctx.to_residual else None, of_coefficients]


torch.library.register_autograd("spimm::norm_lif", _autograd, setup_context=_setup_context, lib=_library)
torch.library.register_autograd(
    "spimm::norm_lif_membrane", _membrane_autograd, setup_context=_membrane_setup_context, lib=_library
)
