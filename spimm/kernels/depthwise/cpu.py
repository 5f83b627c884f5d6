"""Depth-wise convolution through the compiled extension, channels-last.

Plain ones, with one kernel a channel and stride 1, are torch's but for their weight gradient.
"""

import torch
from torch import Tensor

from spimm.kernels import cpu, second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.depthwise import reference
from spimm.kernels.door import Layout

KERNELS = (3, 5, 7)
STRIDES = (1, 2)

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("depthwise_conv2d(Tensor x, Tensor weight, Tensor? bias, int stride, int branches) -> Tensor")
_library.define(
    "depthwise_conv2d_backward(Tensor grad, Tensor x, Tensor weight, int stride, int branches, bool needs_x, "
    "bool needs_weight) -> (Tensor, Tensor)"
)


def unsupported(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, branches: int) -> str | None:
    """As kernels.cpu.unsupported; other kernels and strides are served by the reference."""
    if weight.shape[-1] not in KERNELS or stride not in STRIDES:
        return (
            f"it knows kernels of {KERNELS} and strides of {STRIDES}; weight is {tuple(weight.shape)}, stride {stride}"
        )
    return cpu.unsupported(x)


def depthwise_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, branches: int) -> Tensor:
    """As reference.depthwise_conv2d."""
    y: Tensor = torch.ops.spimm.depthwise_conv2d(channels_last(x, 1), weight, bias, stride, branches)
    return y


def _extent(x: Tensor, weight: Tensor, stride: int, branches: int) -> tuple[int, ...]:
    images, channels, height, width = x.shape
    multiplier = len(weight) // channels
    return images, height, width, channels // branches, multiplier, branches, weight.shape[-1], stride


def _plain(x: Tensor, weight: Tensor, stride: int, branches: int) -> bool:
    """One kernel a channel."""
    return stride == branches == 1 and len(weight) == x.shape[1]


def _empty_out(x: Tensor, weight: Tensor, stride: int, branches: int) -> Tensor:
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return x.new_empty((len(x), height, width, len(weight) // branches)).movedim(-1, 1)


def _outputs(x: Tensor, weight: Tensor, stride: int, branches: int) -> Layout:
    """Of _empty_out."""
    height, width = (-(-side // stride) for side in x.shape[-2:])
    return Layout.of(x.dtype, (len(x), len(weight) // branches, height, width), 1)


def _weights(weight: Tensor) -> Layout:
    """Of the weights as the kernels read them and of their gradient."""
    return Layout.of(torch.float32, weight.shape)


@torch.library.impl(_library, "depthwise_conv2d", "CPU")
def _forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, branches: int) -> Tensor:
    if _plain(x, weight, stride, branches):
        return channels_last(reference.depthwise_conv2d(x, weight, bias, 1, 1), 1)
    y, wide = _empty_out(x, weight, stride, branches), weight.float().contiguous()
    given, made = Layout.like(x, 1).address("x", x), Layout.like(y, 1).address("y", y)
    extent, weights = _extent(x, weight, stride, branches), _weights(weight).address("weight", wide)
    extension().depthwise_forward(STORAGE[x.dtype], extent, num_threads(), given, weights, made)
    return y if bias is None else y.add_(bias.view(-1, 1, 1))


@torch.library.register_fake("spimm::depthwise_conv2d", lib=_library)
def _forward_fake(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, branches: int) -> Tensor:
    return _empty_out(x, weight, stride, branches)


@torch.library.impl(_library, "depthwise_conv2d_backward", "CPU")
def _backward(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, branches: int, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    grad_x, grad_weight = _empty_grads(x, weight, needs_x, needs_weight)
    settings = STORAGE[x.dtype], _extent(x, weight, stride, branches), num_threads()
    inputs, weights = Layout.like(x, 1), _weights(weight)
    got = _outputs(x, weight, stride, branches).address("grad", grad)
    if needs_x and _plain(x, weight, stride, branches):  # the same convolution with the kernel turned around
        grad_x = channels_last(reference.depthwise_conv2d(grad, weight.flip(-2, -1), None, 1, 1), 1)
    elif needs_x:
        wide = weight.float().contiguous()
        addresses = got, weights.address("weight", wide), inputs.address("grad_x", grad_x)
        extension().depthwise_grad_x(*settings, *addresses)
    if needs_weight:
        addresses = inputs.address("x", x), got, weights.address("grad_weight", grad_weight)
        extension().depthwise_grad_weight(*settings, *addresses)
    return grad_x, grad_weight


@torch.library.register_fake("spimm::depthwise_conv2d_backward", lib=_library)
def _backward_fake(
    grad: Tensor, x: Tensor, weight: Tensor, stride: int, branches: int, needs_x: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    return _empty_grads(x, weight, needs_x, needs_weight)


def _empty_grads(x: Tensor, weight: Tensor, needs_x: bool, needs_weight: bool) -> tuple[Tensor, Tensor]:
    grad_weight = weight.new_empty(weight.shape if needs_weight else 0, dtype=torch.float32)
    return torch.empty_like(x) if needs_x else x.new_empty(0), grad_weight


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, *ctx.settings = inputs
    ctx.save_for_backward(x, weight)
    ctx.has_bias = bias is not None


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    if second.wanted():
        return *_differentiable(ctx, grad), None, None
    x, weight = ctx.saved_tensors
    grad, needs = channels_last(grad, 1), ctx.needs_input_grad[:2]
    grad_x, grad_weight = torch.ops.spimm.depthwise_conv2d_backward(grad, x, weight, *ctx.settings, *needs)
    grad_bias = None
    if ctx.has_bias and ctx.needs_input_grad[2]:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
    return grad_x if needs[0] else None, grad_weight.to(weight.dtype) if needs[1] else None, grad_bias, None, None


def _differentiable(ctx, grad: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight and bias by the reference."""
    x, weight = ctx.saved_tensors

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return reference.depthwise_conv2d(x, weight, None, *ctx.settings)

    found = second.gradients("depthwise_conv2d", run, (x, weight), ctx.needs_input_grad[:2], (grad,))
    return [*found, grad.sum((0, 2, 3)) if ctx.has_bias and ctx.needs_input_grad[2] else None]


torch.library.register_autograd("spimm::depthwise_conv2d", _autograd, setup_context=_setup_context, lib=_library)
