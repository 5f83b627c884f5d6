"""Batch norm, residual and LIF through the compiled extension, channels-last; the backward recomputes the potentials.

Saved for backward: the input, the residual and per-channel numbers. Nothing of the size of the potentials is kept.
"""

import torch
from torch import Tensor

from spimm.kernels.cpu import STORAGE, NeuronCode, address, channels_last, empty_steps, extension, num_threads
from spimm.kernels.dynamics import Dynamics

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(
    "norm_lif(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? variance, Tensor? residual, "
    f"Tensor coefficients, int num_steps, float eps, {NeuronCode.SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "norm_lif_backward(Tensor grad_spikes, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, "
    f"Tensor? residual, Tensor coefficients, bool batch_statistics, bool learns, float eps, {NeuronCode.SCHEMA})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def norm_lif(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.norm_lif."""
    if residual is not None:
        residual = channels_last(residual.to(x.dtype))
    mean, variance = (None, None) if mean is None or variance is None else (mean.float(), variance.float())
    return torch.ops.spimm.norm_lif(
        channels_last(x), weight.float(), bias.float(), mean, variance, residual, dynamics.coefficients(), num_steps,
        eps, *NeuronCode.of(dynamics),
    )  # fmt: skip


def _extent(x: Tensor, num_steps: int) -> tuple[int, int, int, bool]:
    channels = x.shape[2]
    return num_steps, x[0].numel() // channels, channels, len(x) != num_steps


def _affine(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    rstd = torch.rsqrt(variance + eps)
    scale = weight * rstd
    return scale, bias - mean * scale, rstd


@torch.library.impl(_library, "norm_lif", "CPU")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    storage, channels, threads = STORAGE[x.dtype], x.shape[2], num_threads()
    if mean is None or variance is None:
        moments = torch.empty(2, channels, dtype=torch.float64)
        extension().channel_moments(
            storage,
            x.data_ptr(),
            x.numel() // channels,
            channels,
            moments[0].data_ptr(),
            moments[1].data_ptr(),
            threads,
        )
        mean, variance = moments.float().unbind()
    scale, shift, _ = _affine(weight, bias, mean, variance, eps)
    spikes = empty_steps(x, num_steps)
    extension().lif_forward(
        storage, (*coefficients.tolist(), *code), _extent(x, num_steps), threads, x.data_ptr(), address(residual), 0,
        scale.data_ptr(), shift.data_ptr(), spikes.data_ptr(), 0,
    )  # fmt: skip
    return spikes, mean.clone(), variance.clone()


@torch.library.register_fake("spimm::norm_lif", lib=_library)
def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    coefficients: Tensor, num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return empty_steps(x, num_steps), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.impl(_library, "norm_lif_backward", "CPU")
def _backward(
    grad_spikes: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
    residual: Tensor | None, coefficients: Tensor, batch_statistics: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    num_steps, channels = len(grad_spikes), x.shape[2]
    scale, shift, rstd = _affine(weight, bias, mean, variance, eps)
    grad_spikes = channels_last(grad_spikes)
    grad_x = torch.empty_like(x)
    grad_residual = x.new_empty(0) if residual is None else torch.empty_like(residual)
    grad_affine = torch.empty(2, channels, dtype=torch.float64)
    grad_coefficients = torch.zeros(3, dtype=torch.float64)
    extension().lif_backward(
        STORAGE[x.dtype], (*coefficients.tolist(), *code), _extent(x, num_steps), num_threads(), x.data_ptr(),
        address(residual), 0, scale.data_ptr(), shift.data_ptr(), mean.data_ptr(), rstd.data_ptr(), batch_statistics,
        grad_spikes.data_ptr(), 0, grad_x.data_ptr(), 0 if residual is None else grad_residual.data_ptr(), 0,
        grad_affine[0].data_ptr(), grad_affine[1].data_ptr(), grad_coefficients.data_ptr() if learns else 0,
    )  # fmt: skip
    grad_weight, grad_bias = grad_affine.float().unbind()
    return grad_x, grad_weight.clone(), grad_bias.clone(), grad_residual, grad_coefficients


@torch.library.register_fake("spimm::norm_lif_backward", lib=_library)
def _backward_fake(
    grad_spikes: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
    residual: Tensor | None, coefficients: Tensor, batch_statistics: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    grad_residual = x.new_empty(0) if residual is None else torch.empty_like(residual)
    return (
        torch.empty_like(x), torch.empty_like(weight), torch.empty_like(bias), grad_residual, coefficients.new_empty(3)
    )  # fmt: skip


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, given_mean, _, residual, coefficients, ctx.num_steps, ctx.eps, *ctx.code = inputs
    _, mean, variance = output
    ctx.batch_statistics = given_mean is None
    ctx.mark_non_differentiable(mean, variance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, variance, residual, coefficients)


def _autograd(ctx, grad_spikes: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 14
    if grad_spikes is None:
        return tuple(nothing)
    x, weight, bias, mean, variance, residual, coefficients = ctx.saved_tensors
    learns = ctx.needs_input_grad[6]
    grad_x, grad_weight, grad_bias, grad_residual, grad_coefficients = torch.ops.spimm.norm_lif_backward(
        grad_spikes, x, weight, bias, mean, variance, residual, coefficients, ctx.batch_statistics, learns, ctx.eps,
        *ctx.code,
    )  # fmt: skip
    nothing[:3] = grad_x, grad_weight, grad_bias
    if residual is not None:
        nothing[5] = grad_residual
    if learns:
        nothing[6] = grad_coefficients
    return tuple(nothing)


torch.library.register_autograd("spimm::norm_lif", _autograd, setup_context=_setup_context, lib=_library)
