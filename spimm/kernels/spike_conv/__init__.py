"""Convolution of spikes: work in proportion to the spikes, 1 bit a spike kept for the backward pass."""

from typing import Any, Literal

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.door import check_dtype, check_shape, check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import steps_of
from spimm.kernels.spike_conv import cpu, reference
from spimm.kernels.spike_conv.packed import PackedConv2d

Memory = Literal["full", "packed"]
_FEW_CHANNELS = 8
"""Below it torch's backward of strided 1x1 convolutions writes outside its tensors on AVX2 (docs/upstream.md)."""


def spike_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    padding: int = 0,
    memory: Memory = "full",
    backend: str = "auto",
) -> Tensor:
    """Convolution. x: [N, C, H, W], weight: [C', C, k, k], bias: [C'] or None -> [N, C', H', W'].

    Equal to torch's conv2d for any x, up to the order of summation. The `cpu` backend looks at x: where few values are
    not 0 it adds one row of weights a spike (and gathers the weight gradient in the same way), elsewhere it is torch's.
    `memory="packed"` keeps whole numbers from 0 to 255 for the backward pass in 1, 2, 4 or 8 bits, the fewest that do.
    Under autocast it computes in autocast's dtype. Raises ValueError for another rank or number of channels.
    """
    check_tensors({"x": x, "weight": weight}, {"bias": bias})
    if x.dim() != 4 or weight.dim() != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; wanted [N, C, H, W] and [C', C, k, k]"
        )
    if memory not in ("full", "packed"):
        raise ValueError(f"memory is {memory!r}; wanted 'full' or 'packed'")
    x, weight, bias = _autocast(x, weight, bias)
    check_shape("bias", bias, (len(weight),))
    check_dtype("x", x, weight=weight, bias=bias)
    if not (torch.is_grad_enabled() and weight.requires_grad):
        memory = "full"  # nothing is kept
    if x.shape[1] < _FEW_CHANNELS and weight.shape[-1] == weight.shape[-2] == 1 and padding == 0 and stride > 1:
        x, stride = x[..., ::stride, ::stride], 1
    return dispatch.call("spike_conv2d", backend, x, weight, bias, stride, padding, memory)


def spike_conv2d_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    dynamics: Dynamics,
    *,
    num_steps: int | None = None,
    padding: int = 0,
    added: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """LIF(convolution) + added, for inference. x: [T, B, C, H, W] -> [T, B, C', H', W']; added as the output.

    x: [1, ...] with `num_steps` is the same at every step. Where x is sparse the `cpu` backend keeps potentials in
    registers: no output of the convolution reaches memory. Under autocast it computes in autocast's dtype. Raises
    ValueError for shapes that do not fit, RuntimeError where a gradient would be wanted.
    """
    check_tensors({"x": x, "weight": weight}, {"bias": bias, "added": added})
    dynamics.check(x)
    num_steps = steps_of(x, num_steps)
    if x.dim() != 5 or weight.dim() != 4 or x.shape[2] != weight.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)} and weight {tuple(weight.shape)}; wanted [T, B, C, H, W] and [C', C, k, k]"
        )
    x, weight, bias, added = _autocast(x, weight, bias, added)
    check_shape("bias", bias, (len(weight),))
    check_dtype("x", x, weight=weight, bias=bias, added=added)
    height, width = (
        side + 2 * padding + 1 - kernel for side, kernel in zip(x.shape[3:], weight.shape[2:], strict=True)
    )
    check_shape("added", added, (num_steps, x.shape[1], len(weight), height, width))
    if torch.is_grad_enabled() and any(y is not None and y.requires_grad for y in (x, weight, bias, added)):
        raise RuntimeError("spike_conv2d_lif has no gradient; use it under torch.no_grad(), or spike_conv2d and lif")
    return dispatch.call("spike_conv2d_lif", backend, x, weight, bias, dynamics, num_steps, padding, added)


def _autocast(x: Tensor, *others: Tensor | None) -> Any:
    """All of them in autocast's dtype where autocast is on."""
    kind = x.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return x, *others
    dtype = torch.get_autocast_dtype(kind)
    return x.to(dtype), *(None if y is None else y.to(dtype) for y in others)


def _reference(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, memory: Memory) -> Tensor:
    if memory == "packed" and not dispatch.transforms():
        return PackedConv2d.apply(x, weight, bias, stride, padding)
    return reference.spike_conv2d(x, weight, bias, stride, padding)


dispatch.register("spike_conv2d", "cpu", cpu.spike_conv2d, cpu.unsupported)
dispatch.register("spike_conv2d", "reference", _reference, lambda *_: None)
dispatch.register("spike_conv2d_lif", "cpu", cpu.spike_conv2d_lif, cpu.unsupported)
dispatch.register("spike_conv2d_lif", "reference", reference.spike_conv2d_lif, lambda *_: None)
