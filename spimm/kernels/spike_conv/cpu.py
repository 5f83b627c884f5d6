"""Convolution of spikes through the compiled extension, or torch's own for the forms that it lacks.

The extension adds up events where an input is sparse and makes every product elsewhere, with the same bits: an image's
output does not depend on its batch-mates. In bfloat16 on a processor with units for it torch's convolution is faster
where the input is dense, but sums in another order: there each image chooses for itself.

The backward pass has three parts: the input gradient is a dense convolution; the weight gradient skips what is 0 in the
input; the input itself may be kept packed.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from spimm.kernels import cpu, second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.norm_lif.cpu import norm_lif
from spimm.kernels.spike_conv import reference
from spimm.kernels.spike_conv.dense import dense_conv2d, dense_gradient
from spimm.kernels.spike_conv.packed import check_differentiable

KERNELS = (1, 3, 5, 7)
SAMPLE = 65536  # values looked at to judge how sparse an input is
# Largest share of non-zero inputs at which skipping zeros wins; units for bfloat16, and matrix units, move it.
LIMITS = {torch.float32: 0.28, torch.bfloat16: 0.45}
UNIT_LIMIT, MATRIX_UNIT_LIMIT = 0.22, 0.04
HEADER = 64  # bytes in front of packed values; they hold the bits of a value, or 0 where values are kept as they are

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(
    "spike_conv2d(Tensor x, Tensor weight, Tensor? bias, int stride, int padding, bool packed) -> (Tensor, Tensor)"
)
_library.define("spike_conv2d_grad_weight(Tensor x, Tensor grad, Tensor weight, int stride, int padding) -> Tensor")
_library.define(
    "spike_conv2d_lif(Tensor x, Tensor weight, Tensor? bias, Tensor? added, Tensor coefficients, int num_steps, "
    f"int padding, {cpu.NeuronCode.SCHEMA}) -> Tensor"
)
_library.define("unpack_spikes(Tensor packed, SymInt[] shape, ScalarType dtype) -> Tensor")


def unsupported(x: Tensor, *settings: object) -> str | None:
    """As kernels.cpu.unsupported; tensors of another dtype are served by the reference."""
    return cpu.unsupported(x)


def spike_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, memory: str) -> Tensor:
    """As reference.spike_conv2d."""
    return torch.ops.spimm.spike_conv2d(channels_last(x, 1), weight, bias, stride, padding, memory == "packed")[0]


def has_form(weight: Tensor, stride: int, padding: int) -> bool:
    """Whether the extension has a kernel for convolutions of this form."""
    kernel = weight.shape[-1]
    same_size = stride == 1 and weight.shape[-2:] == (kernel, kernel) and padding == kernel // 2
    return same_size and kernel in KERNELS and weight.numel() > 0


def has_units(dtype: torch.dtype) -> bool:
    """Whether the processor multiplies values of this dtype faster than float32, which torch makes use of."""
    return dtype == torch.bfloat16 and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def limit_of(dtype: torch.dtype) -> float:
    """Largest share of non-zero inputs at which events are added up."""
    if not has_units(dtype):
        return LIMITS[dtype]
    return MATRIX_UNIT_LIMIT if torch.cpu._is_amx_tile_supported() else UNIT_LIMIT


def density(x: Tensor) -> float:
    """The share of values in x that are not 0, of a sample."""
    return extension().density(STORAGE[x.dtype], Layout.like(x, -3).address("x", x), x.numel(), SAMPLE)


def sparse_enough(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether the event-driven kernel serves this call as a whole: its form, and the share of x that is not 0."""
    return has_form(weight, stride, padding) and density(x) <= limit_of(x.dtype)


def _empty(shape: Sequence[int], like: Tensor) -> Tensor:
    n, c, h, w = shape
    return like.new_empty((n, h, w, c)).permute(0, 3, 1, 2)


def event_extent(x: Tensor, weight: Tensor) -> tuple[int, ...]:
    """Images, H, W, C, C', k as the extension takes them."""
    return len(x), *x.shape[-2:], x.shape[1], weight.shape[0], weight.shape[-1]


@torch.library.impl(_library, "spike_conv2d", "CPU")
def _forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, packed: bool
) -> tuple[Tensor, Tensor]:
    """The output, and with `packed` what the backward pass needs of x."""
    kept = _pack(x) if packed else torch.empty(0, dtype=torch.uint8)
    if not has_form(weight, stride, padding):
        return channels_last(dense_conv2d(x, weight, bias, stride, padding), 1), kept
    if not has_units(x.dtype):
        return _convolve(x, weight, bias, limit_of(x.dtype)), kept
    sparse = _sparse_images(x.unsqueeze(0))
    if len(sparse) == len(x):
        return _convolve(x, weight, bias, 1.0), kept
    y = channels_last(torch.conv2d(x, weight, bias, stride, padding), 1)
    if len(sparse):
        y[sparse] = _convolve(channels_last(x[sparse], 1), weight, bias, 1.0)
    return y, kept


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, limit: float) -> Tensor:
    """By the extension; groups of images with a share of non-zero values up to `limit` add up their events."""
    weight, y = channels_last(weight, 1), _empty((len(x), len(weight), *x.shape[-2:]), x)
    bias = None if bias is None else bias.float().contiguous()
    addresses = *_given(x, weight, bias), Layout.like(y, 1).address("y", y)
    extension().spike_conv_forward(STORAGE[x.dtype], event_extent(x, weight), limit, num_threads(), *addresses)
    return y


def _sparse_images(x: Tensor) -> Tensor:
    """Indices of the images of x, [T, B, C, H, W], that are sparse enough over all steps."""
    limit, steps = limit_of(x.dtype), range(len(x))
    shares = (sum(density(x[t, image]) for t in steps) / len(x) for image in range(x.shape[1]))
    return torch.tensor([image for image, share in enumerate(shares) if share <= limit], dtype=torch.int64)


def _weights(x: Tensor, weight: Tensor) -> Layout:
    """Of the weights for x, [N, C, H, W]."""
    return Layout.of(x.dtype, (len(weight), x.shape[1], *weight.shape[2:]), 1)


def _given(x: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[int, int, int]:
    """Addresses of x, [N, C, H, W], weight and float32 bias."""
    biases, weights = Layout.of(torch.float32, (len(weight),)), _weights(x, weight)
    return Layout.like(x, 1).address("x", x), weights.address("weight", weight), biases.address("bias", bias)


@torch.library.register_fake("spimm::spike_conv2d", lib=_library)
def _forward_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, packed: bool
) -> tuple[Tensor, Tensor]:
    y = torch.conv2d(x, weight, bias, stride, padding)
    size = torch.library.get_ctx().new_dynamic_size() if packed else 0
    return _empty(y.shape, y), x.new_empty(size, dtype=torch.uint8)


def spike_conv2d_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dynamics: Dynamics,
    num_steps: int,
    padding: int,
    added: Tensor | None,
) -> Tensor:
    """As reference.spike_conv2d_lif."""
    added = None if added is None else channels_last(added)
    y: Tensor = torch.ops.spimm.spike_conv2d_lif(
        channels_last(x), weight, bias, added, dynamics.coefficients(), num_steps, padding, *cpu.NeuronCode.of(dynamics)
    )
    return y


@torch.library.impl(_library, "spike_conv2d_lif", "CPU")
def _forward_lif(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, coefficients: Tensor, num_steps: int,
    padding: int, *code: int,
) -> Tensor:  # fmt: skip
    neuron = (*coefficients.tolist(), *code)
    if has_form(weight, 1, padding) and not has_units(x.dtype):
        return _convolve_lif(x, weight, bias, added, neuron, num_steps, limit_of(x.dtype))
    sparse = _sparse_images(x) if has_form(weight, 1, padding) else torch.empty(0, dtype=torch.int64)
    if len(sparse) == x.shape[1]:
        return _convolve_lif(x, weight, bias, added, neuron, num_steps, 1.0)
    z = channels_last(dense_conv2d(x.flatten(0, 1), weight, bias, 1, padding), 1).unflatten(0, x.shape[:2])
    decay, gain, threshold, soft_reset, *_ = neuron
    dynamics = Dynamics(decay, gain, threshold, None if soft_reset else 0.0)
    ones, zeros = torch.ones(len(weight)), torch.zeros(len(weight))  # a norm that changes nothing
    spikes = norm_lif(z, ones, zeros, dynamics, zeros, ones, None, added, num_steps=num_steps, eps=0.0)[0]
    if len(sparse):
        added = None if added is None else channels_last(added[:, sparse])
        x = channels_last(x[:, sparse])
        spikes[:, sparse] = _convolve_lif(x, weight, bias, added, neuron, num_steps, 1.0)
    return spikes


def _convolve_lif(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, neuron: tuple[float, ...], num_steps: int,
    limit: float,
) -> Tensor:  # fmt: skip
    """As _convolve, with the neuron."""
    shape = (num_steps * x.shape[1], len(weight), *x.shape[-2:])
    weight, spikes = channels_last(weight, 1), _empty(shape, x)
    bias = None if bias is None else bias.float().contiguous()
    steps = Layout.of(x.dtype, (num_steps, x.shape[1], *shape[1:]), 2)
    extension().spike_conv_lif_forward(
        STORAGE[x.dtype], neuron, event_extent(x[0], weight), num_steps, len(x) != num_steps, limit, num_threads(),
        *_given(x.flatten(0, 1), weight, bias), steps.address("added", added),
        Layout.like(spikes, 1).address("spikes", spikes),
    )  # fmt: skip
    return spikes.unflatten(0, (num_steps, x.shape[1]))


@torch.library.register_fake("spimm::spike_conv2d_lif", lib=_library)
def _forward_lif_fake(
    x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None, coefficients: Tensor, num_steps: int,
    padding: int, *code: int,
) -> Tensor:  # fmt: skip
    y = torch.conv2d(x.flatten(0, 1), weight, bias, 1, padding)
    return _empty((num_steps * x.shape[1], *y.shape[1:]), y).unflatten(0, (num_steps, x.shape[1]))


@torch.library.impl(_library, "spike_conv2d_grad_weight", "CPU")
def _grad_weight(x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    if not sparse_enough(x, weight, stride, padding):
        return channels_last(dense_gradient(x, grad, weight, stride, padding, wanted=1), 1)
    grad_weight = _empty(weight.shape, weight)
    addresses = (
        Layout.like(x, 1).address("x", x),
        Layout.of(x.dtype, (len(x), len(weight), *x.shape[2:]), 1).address("grad", grad),
        _weights(x, weight).address("grad_weight", grad_weight),
    )
    extension().spike_conv_grad_weight(STORAGE[x.dtype], event_extent(x, weight), num_threads(), *addresses)
    return grad_weight


@torch.library.register_fake("spimm::spike_conv2d_grad_weight", lib=_library)
def _grad_weight_fake(x: Tensor, grad: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return _empty(weight.shape, weight)


def _pack(x: Tensor) -> Tensor:
    """x: [N, C, H, W], channels-last, as bytes: whole numbers from 0 to 255 in as few bits as hold them all."""
    storage, size, threads = STORAGE[x.dtype], x.numel(), num_threads()
    values = Layout.like(x, 1).address("x", x)
    bits = extension().bits_needed(storage, values, size, threads)
    packed = torch.empty(HEADER + (-(-size * bits // 8) if bits else x.nbytes), dtype=torch.uint8)
    packed[:HEADER] = bits
    if bits:
        extension().pack(storage, values, size, bits, _after_header(packed, size, bits), threads)
    else:
        packed[HEADER:].view(x.dtype).copy_(x.permute(0, 2, 3, 1).reshape(-1))
    return packed


def _after_header(packed: Tensor, size: int, bits: int) -> int:
    """Where so many values of so many bits begin."""
    return Layout.of(torch.uint8, (HEADER + -(-size * bits // 8),)).address("packed", packed) + HEADER


@torch.library.impl(_library, "unpack_spikes", "CPU")
def _unpack(packed: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    x = _empty(shape, packed.new_empty(0, dtype=dtype))
    if bits := int(packed[0]):
        values = _after_header(packed, x.numel(), bits)
        made = Layout.like(x, 1).address("x", x)
        extension().unpack(STORAGE[dtype], values, x.numel(), bits, made, num_threads())
    else:
        x.permute(0, 2, 3, 1).view(-1).copy_(packed[HEADER:].view(dtype))
    return x


@torch.library.register_fake("spimm::unpack_spikes", lib=_library)
def _unpack_fake(packed: Tensor, shape: list[int], dtype: torch.dtype) -> Tensor:
    return _empty(shape, packed.new_empty(0, dtype=dtype))


def _setup_context(ctx, inputs, output) -> None:
    x, weight, _, ctx.stride, ctx.padding, ctx.packed = inputs
    _, kept = output
    ctx.shape = x.shape
    ctx.mark_non_differentiable(kept)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(kept if ctx.packed else x, weight)


def _autograd(ctx, grad: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 6
    if second.wanted():
        return *_differentiable(ctx, grad), None, None, None
    kept, weight = ctx.saved_tensors
    needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
    grad = channels_last(grad, 1)
    grad_x = grad_weight = None
    if needs_x:
        like = _empty(ctx.shape, weight)  # torch looks at its shape and layout, not at its values
        grad_x = dense_gradient(like, grad, weight, ctx.stride, ctx.padding, wanted=0)
    if needs_weight:
        x = torch.ops.spimm.unpack_spikes(kept, ctx.shape, weight.dtype) if ctx.packed else kept
        grad_weight = torch.ops.spimm.spike_conv2d_grad_weight(x, grad, weight, ctx.stride, ctx.padding)
    grad_bias = grad.sum((0, 2, 3)) if needs_bias else None
    return grad_x, grad_weight, grad_bias, None, None, None


def _differentiable(ctx, grad: Tensor) -> list[Tensor | None]:
    """The gradients of x, weight and bias by the reference."""
    x, weight = ctx.saved_tensors
    needs_x, _, needs_bias = ctx.needs_input_grad[:3]
    if ctx.packed:
        check_differentiable(needs_x)
        x = torch.ops.spimm.unpack_spikes(x, ctx.shape, weight.dtype)
    run = partial(reference.spike_conv2d, bias=None, stride=ctx.stride, padding=ctx.padding)
    found = second.gradients("spike_conv2d", run, (x, weight), ctx.needs_input_grad[:2], (grad,))
    return [*found, grad.sum((0, 2, 3)) if needs_bias else None]


torch.library.register_autograd("spimm::spike_conv2d", _autograd, setup_context=_setup_context, lib=_library)
