"""Both products of a layer as one, plane behind plane; backward, one gradient of the inputs and one of the weights.

Channels-last. A gradient is never computed for the plane that says which neurons fired. Error is carried back by the
neurons that fired inside their window, and of each pooled square by one alone: where these are few, both gradients add
up one row for each of them and skip the rest.
"""

from functools import partial

import torch
from torch import Tensor

from spimm.kernels import cpu, second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.door import NOTHING, Layout
from spimm.kernels.psp import reference
from spimm.kernels.spike_conv.cpu import event_extent, sparse_enough
from spimm.kernels.spike_conv.dense import dense_conv2d, dense_gradient

NARROWEST = 8  # input channels: the rows that are added up for one error

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("psp_conv2d(Tensor spikes, Tensor weight, int padding) -> Tensor")
_library.define(
    "psp_conv2d_backward(Tensor grad, Tensor spikes, Tensor weight, int padding, bool needs_spikes, bool needs_weight) "
    "-> (Tensor, Tensor)"
)


def unsupported(spikes: Tensor, *settings: object) -> str | None:
    """As kernels.cpu.unsupported; tensors of another dtype are served by the reference."""
    return cpu.unsupported(spikes)


def psp_conv2d(spikes: Tensor, weight: Tensor, padding: int) -> Tensor:
    """As reference.psp_conv2d."""
    y: Tensor = torch.ops.spimm.psp_conv2d(channels_last(spikes), weight, padding)
    return y


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, spikes: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(spikes, weight)
        return spikes @ weight.T

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:  # type: ignore[override]
        spikes, weight = ctx.saved_tensors
        if second.wanted():
            found = second.gradients(
                "psp_linear", reference.psp_linear, (spikes, weight), ctx.needs_input_grad, (grad,)
            )
            return found[0], found[1]
        needs_spikes, needs_weight = ctx.needs_input_grad
        grad_spikes = grad_weight = None
        if needs_spikes:
            grad_spikes = _of_first_plane(spikes)
            torch.mm(grad[0], weight, out=grad_spikes[0])
        if needs_weight:
            grad_weight = grad.flatten(0, 1).T @ spikes.flatten(0, 1)
        return grad_spikes, grad_weight


def psp_linear(spikes: Tensor, weight: Tensor) -> Tensor:
    """As reference.psp_linear."""
    y: Tensor = _Linear.apply(spikes, weight)  # type: ignore[assignment]
    return y


def _of_first_plane(spikes: Tensor) -> Tensor:
    """A gradient of the spikes: zeros for all planes but the first, which is still to be filled."""
    grad = torch.empty_like(spikes)
    grad[1:].zero_()
    return grad


def _empty_out(spikes: Tensor, weight: Tensor, padding: int) -> Tensor:
    planes, images, _, height, width = spikes.shape
    less = weight.shape[-1] - 1 - 2 * padding
    return spikes.new_empty((planes, images, height - less, width - less, len(weight))).movedim(-1, 2)


@torch.library.impl(_library, "psp_conv2d", "CPU")
def _forward(spikes: Tensor, weight: Tensor, padding: int) -> Tensor:
    joined = dense_conv2d(spikes.flatten(0, 1), weight, None, 1, padding)
    return channels_last(joined, 1).unflatten(0, spikes.shape[:2])


@torch.library.register_fake("spimm::psp_conv2d", lib=_library)
def _forward_fake(spikes: Tensor, weight: Tensor, padding: int) -> Tensor:
    return _empty_out(spikes, weight, padding)


@torch.library.impl(_library, "psp_conv2d_backward", "CPU")
def _backward(
    grad: Tensor, spikes: Tensor, weight: Tensor, padding: int, needs_spikes: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    grad_spikes, grad_weight = spikes.new_empty(0), weight.new_empty(0)
    wide = weight.shape[1] >= NARROWEST and 2 * padding < weight.shape[-1]
    few = wide and sparse_enough(grad[0], weight, 1, weight.shape[-1] // 2)
    if few:
        grad = _as_large(grad, weight.shape[-1] // 2 - padding)
    if needs_spikes:
        grad_spikes = _of_first_plane(spikes)
        if few:
            _input_gradient(grad[0], weight, grad_spikes[0])
        else:
            grad_spikes[0] = dense_gradient(spikes[0], grad[0], weight, 1, padding, wanted=0)
    if needs_weight:
        grad, spikes = grad.flatten(0, 1), spikes.flatten(0, 1)
        if few:
            grad_weight = _weight_gradient(grad, spikes, weight)
        else:
            grad_weight = channels_last(dense_gradient(spikes, grad, weight, 1, padding, wanted=1), 1)
    return grad_spikes, grad_weight


def _as_large(grad: Tensor, border: int) -> Tensor:
    """The gradient with zeros around it, as large as the layer's input: that of a convolution that keeps the size."""
    if border == 0:
        return grad
    planes, images, channels, height, width = grad.shape
    larger = grad.new_zeros(planes, images, height + 2 * border, width + 2 * border, channels).movedim(-1, 2)
    larger[..., border : border + height, border : border + width] = grad
    return larger


def _input_gradient(grad: Tensor, weight: Tensor, to: Tensor) -> None:
    """Fills `to`, [N, C, H, W]: the convolution of the events of grad, [N, C', H, W], with kernels turned around."""
    turned = channels_last(weight.transpose(0, 1).flip(-2, -1), 1)
    weights = Layout.of(grad.dtype, (weight.shape[1], grad.shape[1], *weight.shape[2:]), 1)
    inputs = Layout.of(grad.dtype, (len(grad), weight.shape[1], *grad.shape[2:]), 1)
    got, turned_at = Layout.like(grad, 1).address("grad", grad), weights.address("weight", turned)
    addresses = got, turned_at, NOTHING, inputs.address("grad_spikes", to)
    extension().spike_conv_forward(STORAGE[grad.dtype], event_extent(grad, turned), 1.0, num_threads(), *addresses)


def _weight_gradient(grad: Tensor, spikes: Tensor, weight: Tensor) -> Tensor:
    """That of a convolution in which inputs and gradients have changed places, turned around."""
    swapped = weight.new_empty(weight.shape[1], *weight.shape[2:], weight.shape[0]).movedim(-1, 1)  # [C, C', k, k]
    inputs = Layout.of(grad.dtype, (len(grad), weight.shape[1], *grad.shape[2:]), 1)
    weights = Layout.of(grad.dtype, (weight.shape[1], grad.shape[1], *weight.shape[2:]), 1)
    got, given = Layout.like(grad, 1).address("grad", grad), inputs.address("spikes", spikes)
    addresses = got, given, weights.address("grad_weight", swapped)
    extension().spike_conv_grad_weight(STORAGE[grad.dtype], event_extent(grad, swapped), num_threads(), *addresses)
    return channels_last(swapped.transpose(0, 1).flip(-2, -1), 1)


@torch.library.register_fake("spimm::psp_conv2d_backward", lib=_library)
def _backward_fake(
    grad: Tensor, spikes: Tensor, weight: Tensor, padding: int, needs_spikes: bool, needs_weight: bool
) -> tuple[Tensor, Tensor]:
    grad_spikes = torch.empty_like(spikes) if needs_spikes else spikes.new_empty(0)
    return grad_spikes, torch.empty_like(
        weight, memory_format=torch.channels_last
    ) if needs_weight else weight.new_empty(0)


def _setup_context(ctx, inputs, output) -> None:
    spikes, weight, ctx.padding = inputs
    ctx.save_for_backward(spikes, weight)


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    spikes, weight = ctx.saved_tensors
    needs = ctx.needs_input_grad[:2]
    if second.wanted():
        run = partial(reference.psp_conv2d, padding=ctx.padding)
        return *second.gradients("psp_conv2d", run, (spikes, weight), needs, (grad,)), None
    found = torch.ops.spimm.psp_conv2d_backward(channels_last(grad), spikes, weight, ctx.padding, *needs)
    return *(gradient if needed else None for gradient, needed in zip(found, needs, strict=True)), None


torch.library.register_autograd("spimm::psp_conv2d", _autograd, setup_context=_setup_context, lib=_library)
