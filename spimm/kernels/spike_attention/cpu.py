"""Linear spiking self-attention through the compiled extension, channels-last. Saved for backward: qkv alone."""

from functools import partial

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.spike_attention import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("spike_attention(Tensor qkv, int num_heads, float scale) -> Tensor")
_library.define("spike_attention_backward(Tensor grad, Tensor qkv, int num_heads, float scale) -> Tensor")


def spike_attention(qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    """As reference.spike_attention."""
    return torch.ops.spimm.spike_attention(channels_last(qkv), num_heads, scale)


def _extent(qkv: Tensor, num_heads: int) -> tuple[int, int, int, int]:
    num_steps, samples, joined, height, width = qkv.shape
    return num_steps * samples, height * width, joined // 3, num_heads


def _empty(qkv: Tensor, channels: int) -> Tensor:
    """[T, B, channels, H, W], channels-last."""
    num_steps, samples, _, height, width = qkv.shape
    return qkv.new_empty(num_steps, samples, height, width, channels).movedim(-1, 2)


@torch.library.impl(_library, "spike_attention", "CPU")
def _forward(qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    y = _empty(qkv, qkv.shape[2] // 3)
    given, made = Layout.like(qkv, 2).address("qkv", qkv), Layout.like(y, 2).address("y", y)
    extension().spike_attention_forward(STORAGE[qkv.dtype], _extent(qkv, num_heads), scale, num_threads(), given, made)
    return y


@torch.library.register_fake("spimm::spike_attention", lib=_library)
def _forward_fake(qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    return _empty(qkv, qkv.shape[2] // 3)


@torch.library.impl(_library, "spike_attention_backward", "CPU")
def _backward(grad: Tensor, qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    grad, grad_qkv = channels_last(grad), _empty(qkv, qkv.shape[2])
    num_steps, samples, joined, *space = qkv.shape
    inputs, outputs = Layout.like(qkv, 2), Layout.of(qkv.dtype, (num_steps, samples, joined // 3, *space), 2)
    addresses = inputs.address("qkv", qkv), outputs.address("grad", grad), inputs.address("grad_qkv", grad_qkv)
    extension().spike_attention_backward(STORAGE[qkv.dtype], _extent(qkv, num_heads), scale, num_threads(), *addresses)
    return grad_qkv


@torch.library.register_fake("spimm::spike_attention_backward", lib=_library)
def _backward_fake(grad: Tensor, qkv: Tensor, num_heads: int, scale: float) -> Tensor:
    return _empty(qkv, qkv.shape[2])


def _setup_context(ctx, inputs, output) -> None:
    qkv, ctx.num_heads, ctx.scale = inputs
    ctx.save_for_backward(qkv)


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    (qkv,) = ctx.saved_tensors
    if second.wanted():
        return *second.gradients("spike_attention", partial(_run, ctx), (qkv,), (True,), (grad,)), None, None
    return torch.ops.spimm.spike_attention_backward(grad, qkv, ctx.num_heads, ctx.scale), None, None


def _run(ctx, qkv: Tensor) -> Tensor:
    return reference.spike_attention(qkv.float(), ctx.num_heads, ctx.scale)


torch.library.register_autograd("spimm::spike_attention", _autograd, setup_context=_setup_context, lib=_library)
