"""Whole numbers in few bits, in plain torch: what `memory="packed"` keeps on devices without a kernel of their own."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from spimm.kernels import second


class Packed(NamedTuple):
    """`bits` a value, 8 / bits values a byte, the first in the lowest bits; 0 bits: `values` is the tensor itself."""

    values: Tensor
    bits: int
    shape: torch.Size

    @classmethod
    def of(cls, x: Tensor) -> "Packed":
        """x: whole numbers from 0 to 255 in 1, 2, 4 or 8 bits, the fewest that hold them all; else x as it is."""
        smallest, largest = (float(value) for value in torch.aminmax(x)) if x.numel() else (0.0, 0.0)
        if not (smallest >= 0 and largest <= 255 and torch.equal(x, x.round())):
            return cls(x, 0, x.shape)
        bits = next(bits for bits in (1, 2, 4, 8) if largest < 2**bits)
        values = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % (8 // bits))).to(torch.uint8)
        shifts = torch.arange(0, 8, bits, device=x.device, dtype=torch.uint8)
        return cls((values.view(-1, 8 // bits) << shifts).sum(-1, dtype=torch.uint8), bits, x.shape)

    def unpack(self, dtype: torch.dtype) -> Tensor:
        """The tensor that was packed."""
        if not self.bits:
            return self.values
        shifts = torch.arange(0, 8, self.bits, device=self.values.device, dtype=torch.uint8)
        values = (self.values.unsqueeze(-1) >> shifts) & (2**self.bits - 1)
        return values.flatten()[: self.shape.numel()].view(self.shape).to(dtype)


def check_differentiable(needs_x: bool) -> None:
    """Raises RuntimeError where second derivatives would need the input itself, of which the bits alone are kept."""
    if needs_x:
        raise RuntimeError(
            "memory='packed' keeps no graph of a convolution's input, which second derivatives need; "
            "use memory='full': create_model(..., memory='full') or layers.set_memory(model, 'full')"
        )


class PackedConv2d(torch.autograd.Function):
    """torch's conv2d, its input kept packed."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int) -> Tensor:
        packed = Packed.of(x)
        ctx.save_for_backward(packed.values, weight)
        ctx.bits, ctx.shape, ctx.stride, ctx.padding = packed.bits, packed.shape, stride, padding
        return conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        if second.wanted():
            check_differentiable(needs_x)
        x = Packed(values, ctx.bits, ctx.shape).unpack(weight.dtype)
        sizes = [len(weight)] if needs_bias else None
        grads = torch.ops.aten.convolution_backward(
            grad, x, weight, sizes, [ctx.stride] * 2, [ctx.padding] * 2, [1, 1], False, [0, 0], 1,
            [needs_x, needs_weight, needs_bias],
        )  # fmt: skip
        return *grads, None, None
