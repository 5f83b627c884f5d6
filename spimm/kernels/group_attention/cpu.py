"""Softmax attention within groups through the compiled extension, channels-last. Saved for backward: inputs alone."""

import torch
from torch import Tensor

from spimm.kernels import cpu, second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.group_attention import reference

MAX_POSITIONS = 256
"""Scores of a group stay in the cache up to here."""

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("group_attention(Tensor qkv, Tensor bias, Tensor members, bool shared) -> Tensor")
_library.define(
    "group_attention_backward(Tensor grad, Tensor qkv, Tensor bias, Tensor members, bool shared) -> (Tensor, Tensor)"
)


def unsupported(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> str | None:
    """As kernels.cpu.unsupported; larger groups are served by the reference."""
    if members.shape[1] > MAX_POSITIONS:
        return f"it takes groups of up to {MAX_POSITIONS} tokens, members is {tuple(members.shape)}"
    return cpu.unsupported(qkv)


def group_attention(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> Tensor:
    """As reference.group_attention."""
    members = members.to(torch.int64).contiguous()
    return torch.ops.spimm.group_attention(channels_last(qkv), bias.float().contiguous(), members, shared)


def _settings(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> tuple[object, ...]:
    num_steps, samples, joined, height, width = qkv.shape
    inputs, heads = 1 if shared else 3, len(bias)
    head_width = joined // (inputs * heads)
    sizes = (num_steps * samples, height * width, inputs, heads, head_width, *members.shape)
    return STORAGE[qkv.dtype], (*sizes, head_width**-0.5), num_threads()


def _empty(qkv: Tensor, channels: int) -> Tensor:
    """[T, B, channels, H, W], channels-last."""
    num_steps, samples, _, height, width = qkv.shape
    return qkv.new_empty(num_steps, samples, height, width, channels).movedim(-1, 2)


def _inputs(qkv: Tensor, bias: Tensor, members: Tensor) -> tuple[int, int, int]:
    """Addresses; the extension looks at each member."""
    positions = members.shape[1]
    biases = Layout.of(torch.float32, (len(bias), positions, positions))
    places = Layout.of(torch.int64, members.shape)
    return Layout.like(qkv, 2).address("qkv", qkv), biases.address("bias", bias), places.address("members", members)


@torch.library.impl(_library, "group_attention", "CPU")
def _forward(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> Tensor:
    y = _forward_fake(qkv, bias, members, shared)
    addresses = *_inputs(qkv, bias, members), Layout.like(y, 2).address("y", y)
    extension().group_attention_forward(*_settings(qkv, bias, members, shared), *addresses)
    return y


@torch.library.register_fake("spimm::group_attention", lib=_library)
def _forward_fake(qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> Tensor:
    return _empty(qkv, qkv.shape[2] // (1 if shared else 3))


@torch.library.impl(_library, "group_attention_backward", "CPU")
def _backward(grad: Tensor, qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    grad, (grad_qkv, grad_bias) = channels_last(grad), _backward_fake(grad, qkv, bias, members, shared)
    num_steps, samples, joined, *space = qkv.shape
    outputs = Layout.of(qkv.dtype, (num_steps, samples, joined // (1 if shared else 3), *space), 2)
    grad_addresses = (
        outputs.address("grad", grad),
        Layout.like(qkv, 2).address("grad_qkv", grad_qkv),
        Layout.of(torch.float32, bias.shape).address("grad_bias", grad_bias),
    )
    addresses = *_inputs(qkv, bias, members), *grad_addresses
    extension().group_attention_backward(*_settings(qkv, bias, members, shared), *addresses)
    return grad_qkv, grad_bias


@torch.library.register_fake("spimm::group_attention_backward", lib=_library)
def _backward_fake(grad: Tensor, qkv: Tensor, bias: Tensor, members: Tensor, shared: bool) -> tuple[Tensor, Tensor]:
    return _empty(qkv, qkv.shape[2]), torch.empty_like(bias)


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.shared = inputs
    ctx.save_for_backward(*tensors)


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    if second.wanted():
        return *_differentiable(ctx, grad), None, None
    grads = torch.ops.spimm.group_attention_backward(grad, *ctx.saved_tensors, ctx.shared)
    return *grads, None, None


def _differentiable(ctx, grad: Tensor) -> list[Tensor | None]:
    """The gradients of qkv and bias by the reference."""
    qkv, bias, members = ctx.saved_tensors

    def run(qkv: Tensor, bias: Tensor) -> Tensor:
        return reference.group_attention(qkv.float(), bias, members, shared=ctx.shared)

    return second.gradients("group_attention", run, (qkv, bias), ctx.needs_input_grad[:2], (grad,))


torch.library.register_autograd("spimm::group_attention", _autograd, setup_context=_setup_context, lib=_library)
