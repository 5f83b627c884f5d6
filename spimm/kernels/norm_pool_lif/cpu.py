"""Batch norm, max-pool and LIF through the compiled extension, channels-last; the backward recomputes the potentials.

Saved for backward: the input and per-channel numbers; the maxima are found again.
"""

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import STORAGE, NeuronCode, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.norm_lif.cpu import Norm
from spimm.kernels.norm_pool_lif import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(
    "norm_pool_lif(Tensor x, Tensor weight, Tensor bias, Tensor? mean, Tensor? variance, Tensor coefficients, "
    f"int num_steps, float eps, {NeuronCode.SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "norm_pool_lif_backward(Tensor grad_spikes, Tensor x, Tensor weight, Tensor bias, Tensor mean, Tensor variance, "
    f"Tensor coefficients, bool of_batch, bool learns, float eps, {NeuronCode.SCHEMA})"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
PADDING = 64  # bytes that a kernel may read, not use, past the winners


def norm_pool_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    *,
    num_steps: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """As reference.norm_pool_lif."""
    weight, bias = weight.float().contiguous(), bias.float().contiguous()
    mean, variance = (None if s is None else s.float().contiguous() for s in (mean, variance))
    return torch.ops.spimm.norm_pool_lif(
        channels_last(x), weight, bias, mean, variance, dynamics.coefficients(), num_steps, eps,
        *NeuronCode.of(dynamics),
    )  # fmt: skip


def _extent(x: Tensor, num_steps: int) -> tuple[int, int, int, int, int, bool]:
    _, images, channels, height, width = x.shape
    return num_steps, images, height, width, channels, len(x) != num_steps


def _empty_pooled(x: Tensor, num_steps: int) -> Tensor:
    """An uninitialised [num_steps, B, C, H', W'] tensor in memory order (T, B, H', W', C)."""
    _, images, channels, height, width = x.shape
    return x.new_empty(num_steps, images, (height + 1) // 2, (width + 1) // 2, channels).movedim(-1, 2)


def _pooled(x: Tensor, num_steps: int) -> Layout:
    """Of _empty_pooled."""
    _, images, channels, height, width = x.shape
    return Layout.of(x.dtype, (num_steps, images, channels, (height + 1) // 2, (width + 1) // 2), 2)


@torch.library.impl(_library, "norm_pool_lif", "CPU")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, coefficients: Tensor,
    num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    of_batch = mean is None or variance is None
    mean, variance = (torch.empty_like(weight) if s is None else s.clone() for s in (mean, variance))
    norm = Norm(weight, bias, mean, variance).addresses(x.shape[2], eps, of_batch)
    spikes = _empty_pooled(x, num_steps)
    extension().pool_forward(
        STORAGE[x.dtype], (*coefficients.tolist(), *code), _extent(x, num_steps), norm, num_threads(),
        Layout.like(x, 2).address("x", x), _pooled(x, num_steps).address("spikes", spikes),
    )  # fmt: skip
    return spikes, mean, variance


@torch.library.register_fake("spimm::norm_pool_lif", lib=_library)
def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, coefficients: Tensor,
    num_steps: int, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_pooled(x, num_steps), torch.empty_like(weight), torch.empty_like(weight)


@torch.library.impl(_library, "norm_pool_lif_backward", "CPU")
def _backward(
    grad_spikes: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    num_steps, grad_spikes = len(grad_spikes), channels_last(grad_spikes)
    grad_pooled = _empty_pooled(x, len(x))
    winners = torch.empty(grad_pooled.numel() + PADDING, dtype=torch.uint8)
    grads = _empty_gradients(x, weight, coefficients, learns)
    grad_x, grad_weight, grad_bias, grad_coefficients = grads
    norm = Norm(weight, bias, mean, variance).addresses(x.shape[2], eps, of_batch)
    inputs, numbers, learnt = Layout.like(x, 2), Layout.of(torch.float32, (x.shape[2],)), Layout.like(coefficients)
    extension().pool_backward(
        STORAGE[x.dtype], (*coefficients.tolist(), *code), _extent(x, num_steps), norm, num_threads(),
        inputs.address("x", x), _pooled(x, num_steps).address("grad_spikes", grad_spikes),
        _pooled(x, len(x)).address("grad_pooled", grad_pooled), Layout.like(winners).address("winners", winners),
        inputs.address("grad_x", grad_x), numbers.address("grad_weight", grad_weight),
        numbers.address("grad_bias", grad_bias),
        learnt.address("grad_coefficients", grad_coefficients if learns else None),
    )  # fmt: skip
    return grads


@torch.library.register_fake("spimm::norm_pool_lif_backward", lib=_library)
def _backward_fake(
    grad_spikes: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(x, weight, coefficients, learns)


def _empty_gradients(
    x: Tensor, weight: Tensor, coefficients: Tensor, learns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of x, weight, bias and the coefficients; those without elements where nobody asks."""
    per_channel = (torch.empty_like(weight), torch.empty_like(weight))
    return torch.empty_like(x), *per_channel, coefficients.new_empty(3 if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, given_mean, _, coefficients, _, ctx.eps, *ctx.code = inputs
    _, mean, variance = output
    ctx.of_batch = given_mean is None
    ctx.mark_non_differentiable(mean, variance)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, bias, mean, variance, coefficients)


def _autograd(ctx, grad_spikes: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 13
    if grad_spikes is None:
        return tuple(nothing)
    if second.wanted():
        nothing[0], nothing[1], nothing[2], nothing[5] = _differentiable(ctx, grad_spikes)
        return tuple(nothing)
    x, weight, bias, mean, variance, coefficients = ctx.saved_tensors
    learns = ctx.needs_input_grad[5]
    *nothing[:3], grad_coefficients = torch.ops.spimm.norm_pool_lif_backward(
        grad_spikes, x, weight, bias, mean, variance, coefficients, ctx.of_batch, learns, ctx.eps, *ctx.code
    )
    nothing[5] = grad_coefficients if learns else None
    return tuple(nothing)


def _differentiable(ctx, grad_spikes: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight, bias and coefficients by the reference."""
    x, weight, bias, mean, variance, coefficients = ctx.saved_tensors
    given = (None, None) if ctx.of_batch else (mean, variance)

    def run(x: Tensor, weight: Tensor, bias: Tensor, coefficients: Tensor) -> Tensor:
        dynamics, settings = (
            NeuronCode(*ctx.code).dynamics(coefficients),
            {"num_steps": len(grad_spikes), "eps": ctx.eps},
        )
        return reference.norm_pool_lif(x.float(), weight, bias, dynamics, *given, **settings)[0]

    needed = [ctx.needs_input_grad[i] for i in (0, 1, 2, 5)]
    return second.gradients("norm_pool_lif", run, (x, weight, bias, coefficients), needed, (grad_spikes,))


torch.library.register_autograd("spimm::norm_pool_lif", _autograd, setup_context=_setup_context, lib=_library)
