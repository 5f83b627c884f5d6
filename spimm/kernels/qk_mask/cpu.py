"""Q-K masks through the compiled extension, channels-last. Saved for backward: qk and the small sums of q."""

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import STORAGE, NeuronCode, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.qk_mask import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(
    f"qk_mask(Tensor qk, Tensor coefficients, int num_heads, {NeuronCode.SCHEMA}) -> (Tensor, Tensor, Tensor)"
)
_library.define(
    "qk_mask_backward(Tensor grad_out, Tensor qk, Tensor sums, Tensor coefficients, int num_heads, bool learns, "
    f"{NeuronCode.SCHEMA}) -> (Tensor, Tensor)"
)
OF_CHANNELS = 0  # the num_heads of a channel mask


def token_mask(qk: Tensor, dynamics: Dynamics, num_heads: int) -> tuple[Tensor, Tensor]:
    """As reference.token_mask."""
    code = NeuronCode.of(dynamics)
    out, mask, _ = torch.ops.spimm.qk_mask(channels_last(qk), dynamics.coefficients(), num_heads, *code)
    return out, mask


def channel_mask(qk: Tensor, dynamics: Dynamics) -> tuple[Tensor, Tensor]:
    """As reference.channel_mask."""
    code = NeuronCode.of(dynamics)
    out, mask, _ = torch.ops.spimm.qk_mask(channels_last(qk), dynamics.coefficients(), OF_CHANNELS, *code)
    return out, mask


def _extent(qk: Tensor, num_heads: int) -> tuple[int, int, int, int, int]:
    num_steps, images, both, height, width = qk.shape
    return num_steps, images, height * width, both // 2, num_heads


def _empty_results(qk: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """out, mask and sums, uninitialised."""
    num_steps, images, both, height, width = qk.shape
    out = qk.new_empty(num_steps, images, height, width, both // 2).movedim(-1, 2)
    inner = (both // 2,) if num_heads == OF_CHANNELS else (height, width, num_heads)
    mask = qk.new_empty(num_steps, images, *inner)
    return out, mask, torch.empty_like(mask, dtype=torch.float32)


@torch.library.impl(_library, "qk_mask", "CPU")
def _forward(qk: Tensor, coefficients: Tensor, num_heads: int, *code: int) -> tuple[Tensor, Tensor, Tensor]:
    results = _empty_results(qk, num_heads)
    kernel = extension().channel_mask_forward if num_heads == OF_CHANNELS else extension().token_mask_forward
    out, mask, sums = results
    kernel(
        STORAGE[qk.dtype], (*coefficients.tolist(), *code), _extent(qk, num_heads), num_threads(),
        Layout.like(qk, 2).address("qk", qk), Layout.like(out, 2).address("out", out),
        Layout.like(mask).address("mask", mask), Layout.like(sums).address("sums", sums),
    )  # fmt: skip
    return results


@torch.library.register_fake("spimm::qk_mask", lib=_library)
def _forward_fake(qk: Tensor, coefficients: Tensor, num_heads: int, *code: int) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_results(qk, num_heads)


@torch.library.impl(_library, "qk_mask_backward", "CPU")
def _backward(
    grad_out: Tensor, qk: Tensor, sums: Tensor, coefficients: Tensor, num_heads: int, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    grad_out, grad_qk = channels_last(grad_out), torch.empty_like(qk)
    grad_coefficients = coefficients.new_zeros(3 if learns else 0)
    kernel = extension().channel_mask_backward if num_heads == OF_CHANNELS else extension().token_mask_backward
    num_steps, images, both, *space = qk.shape
    inner = (both // 2,) if num_heads == OF_CHANNELS else (*space, num_heads)
    inputs, outputs = Layout.like(qk, 2), Layout.of(qk.dtype, (num_steps, images, both // 2, *space), 2)
    kernel(
        STORAGE[qk.dtype], (*coefficients.tolist(), *code), _extent(qk, num_heads), num_threads(),
        inputs.address("qk", qk), Layout.of(torch.float32, (num_steps, images, *inner)).address("sums", sums),
        outputs.address("grad_out", grad_out), inputs.address("grad_qk", grad_qk),
        Layout.like(coefficients).address("grad_coefficients", grad_coefficients if learns else None),
    )  # fmt: skip
    return grad_qk, grad_coefficients


@torch.library.register_fake("spimm::qk_mask_backward", lib=_library)
def _backward_fake(
    grad_out: Tensor, qk: Tensor, sums: Tensor, coefficients: Tensor, num_heads: int, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(qk), coefficients.new_empty(3 if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    qk, coefficients, ctx.num_heads, *ctx.code = inputs
    _, mask, sums = output
    ctx.mark_non_differentiable(mask, sums)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(qk, sums, coefficients)


def _autograd(ctx, grad_out: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 8
    if grad_out is None:
        return tuple(nothing)
    if second.wanted():
        nothing[:2] = _differentiable(ctx, grad_out)
        return tuple(nothing)
    qk, sums, coefficients = ctx.saved_tensors
    learns = ctx.needs_input_grad[1]
    grad_qk, grad_coefficients = torch.ops.spimm.qk_mask_backward(
        grad_out, qk, sums, coefficients, ctx.num_heads, learns, *ctx.code
    )
    nothing[:2] = grad_qk, grad_coefficients if learns else None
    return tuple(nothing)


def _differentiable(ctx, grad_out: Tensor) -> list[Tensor | None]:
    """The gradients of qk and coefficients by the reference."""
    qk, _, coefficients = ctx.saved_tensors

    def run(qk: Tensor, coefficients: Tensor) -> Tensor:
        dynamics = NeuronCode(*ctx.code).dynamics(coefficients)
        if ctx.num_heads == OF_CHANNELS:
            return reference.channel_mask(qk.float(), dynamics)[0]
        return reference.token_mask(qk.float(), dynamics, ctx.num_heads)[0]

    return second.gradients("qk_mask", run, (qk, coefficients), ctx.needs_input_grad[:2], (grad_out,))


torch.library.register_autograd("spimm::qk_mask", _autograd, setup_context=_setup_context, lib=_library)
