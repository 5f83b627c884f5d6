"""Depth-wise convolution: torch's, but for the weight gradient, which is the compiled extension's."""

import torch
from torch import Tensor

from spimm.kernels import cpu
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.depthwise import reference

KERNELS = (3, 5, 7)

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias) -> Tensor")
_library.define("depthwise_conv2d_grad_weight(Tensor x, Tensor grad, Tensor weight) -> Tensor")


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None) -> str | None:
    """As kernels.cpu.unsupported; kernels of other sizes are served by the reference."""
    if weight.shape[-1] not in KERNELS:
        return f"it knows kernels of {KERNELS}, weight is {tuple(weight.shape)}"
    return cpu.unsupported(x)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """As reference.depthwise_conv2d."""
    y: Tensor = torch.ops.spimm.depthwise_conv2d(channels_last(x, 1), weight, bias)
    return y


@torch.library.impl(_library, "depthwise_conv2d", "CPU")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return channels_last(reference.depthwise_conv2d(x, weight, bias), 1)


@torch.library.register_fake("spimm::depthwise_conv2d", lib=_library)
def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


@torch.library.impl(_library, "depthwise_conv2d_grad_weight", "CPU")
def _grad_weight(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    found = torch.empty(weight.shape, dtype=torch.float32)
    extent = (len(x), *x.shape[-2:], x.shape[1], weight.shape[-1])
    addresses = x.data_ptr(), grad.data_ptr(), found.data_ptr()
    extension().depthwise_grad_weight(STORAGE[x.dtype], extent, num_threads(), *addresses)
    return found.to(weight.dtype)


@torch.library.register_fake("spimm::depthwise_conv2d_grad_weight", lib=_library)
def _grad_weight_fake(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    return torch.empty_like(weight)


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    grad = channels_last(grad, 1)
    grad_x = grad_weight = grad_bias = None
    if ctx.needs_input_grad[0]:  # stride 1: the same convolution with the kernel turned around
        grad_x = channels_last(reference.depthwise_conv2d(grad, weight.flip(-2, -1), None), 1)
    if ctx.needs_input_grad[1]:
        grad_weight = torch.ops.spimm.depthwise_conv2d_grad_weight(x, grad, weight)
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
    return grad_x, grad_weight, grad_bias


torch.library.register_autograd("spimm::depthwise_conv2d", _autograd, setup_context=_setup_context, lib=_library)
