"""Q-K masks on CUDA tensors: sums of q, LIF on these (small), product with k; backward the same way round.

Both masks are one matrix [N, M] that lies over a matrix of tokens and channels [R, C]: a mask's element is shared by
`tall` tokens and `wide` channels. A head's mask has tall = 1, wide = C / h; a channel's has tall = H W, wide = 1.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from spimm.kernels import device
from spimm.kernels.cpu import NeuronCode, channels_last
from spimm.kernels.device import launch, load, tile_at
from spimm.kernels.lif.triton import Norm, run_backward, run_forward
from spimm.kernels.qk_mask.cpu import OF_CHANNELS, _empty_results


@triton.jit(do_not_specialize=["count", "elements"])
def sum_kernel(
    a, b, sums, a_row, b_row, tall, wide, count, masks, elements, KEPT: tl.constexpr, SUMMED: tl.constexpr,
    ALONG: tl.constexpr,
):  # fmt: skip
    """sums[i] = sum of a, or a b, under element i of the mask. a_row, b_row: elements from one token to the next.

    ALONG: the sum runs along the channels, else along the tokens; the other of tall and wide is 1.
    """
    element = tl.program_id(0).to(tl.int64) * KEPT + tl.arange(0, KEPT)
    token, channel = element // masks * tall, element % masks * wide
    total = tl.full([KEPT, SUMMED], 0, tl.float32)
    for begin in range(0, count, SUMMED):
        i = begin + tl.arange(0, SUMMED)
        exists = (element < elements)[:, None] & (i < count)[None, :]
        a_at = (token * a_row + channel)[:, None]
        value = load(a + a_at + (i if ALONG else i * a_row)[None, :], exists)
        if b is not None:
            b_at = (token * b_row + channel)[:, None]
            value *= load(b + b_at + (i if ALONG else i * b_row)[None, :], exists)
        total += value
    tl.store(sums + element, tl.sum(total, 1), mask=element < elements)


@triton.jit(do_not_specialize=["rows"])
def apply_kernel(mask, k, out, tall, wide, masks, rows, channels, ROWS: tl.constexpr, COLS: tl.constexpr):
    """out = mask k. k points to the first of the second half of qk."""
    at, exists, row, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    of_mask = row // tall * masks + (col // wide)[None, :]
    value = load(mask + of_mask, exists) * load(k + row * 2 * channels + col[None, :], exists)
    tl.store(out + at, value, mask=exists)


@triton.jit(do_not_specialize=["rows"])
def apply_backward_kernel(
    mask, grad_sums, grad_out, grad_q, grad_k, tall, wide, masks, rows, channels, ROWS: tl.constexpr, COLS: tl.constexpr
):
    at, exists, row, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    of_mask = row // tall * masks + (col // wide)[None, :]
    half = row * 2 * channels + col[None, :]
    tl.store(grad_q + half, load(grad_sums + of_mask, exists), mask=exists)
    tl.store(grad_k + half, load(mask + of_mask, exists) * load(grad_out + at, exists), mask=exists)


class _Shape(NamedTuple):
    tall: int
    wide: int
    masks: int
    rows: int
    channels: int

    @classmethod
    def of(cls, qk: Tensor, num_heads: int) -> "_Shape":
        channels = qk.shape[2] // 2
        rows = qk.numel() // (2 * channels)
        if num_heads == OF_CHANNELS:
            return cls(qk.shape[3] * qk.shape[4], 1, channels, rows, channels)
        return cls(1, channels // num_heads, num_heads, rows, channels)

    def add_up(self, a: Tensor, a_row: int, b: Tensor | None, b_row: int, sums: Tensor) -> None:
        count, along = max(self.tall, self.wide), self.tall == 1
        summed = min(64, triton.next_power_of_2(count)) if along else 16
        kept = device.TILE // summed
        launch(
            sum_kernel, triton.cdiv(sums.numel(), kept), a, b, sums, a_row, b_row, self.tall, self.wide, count,
            self.masks, sums.numel(), KEPT=kept, SUMMED=summed, ALONG=along,
        )  # fmt: skip


def _halves(qk: Tensor) -> tuple[Tensor, Tensor]:
    """q and k as a kernel takes them: tensors that begin with the first element of each; None of them is copied."""
    return qk[:, :, : qk.shape[2] // 2], qk[:, :, qk.shape[2] // 2 :]


def qk_mask(qk: Tensor, coefficients: Tensor, num_heads: int, *code: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The CUDA implementation of the op in cpu.py."""
    out, mask, sums = _empty_results(qk, num_heads)
    shape, (q, k) = _Shape.of(qk, num_heads), _halves(qk)
    shape.add_up(q, 2 * shape.channels, None, 0, sums)
    run_forward(sums, mask, (1, sums[0].numel()), Norm(), coefficients, NeuronCode(*code))
    tiling = device.Tiling.of(shape.rows, shape.channels)
    launch(apply_kernel, tiling.programs, mask, k, out, *shape, ROWS=tiling.rows, COLS=tiling.cols)
    return out, mask, sums


def qk_mask_backward(
    grad_out: Tensor, qk: Tensor, sums: Tensor, coefficients: Tensor, num_heads: int, learns: bool, *code: Any
) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of the op in cpu.py."""
    grad_out, grad_qk = channels_last(grad_out), torch.empty_like(qk)
    shape, (_, k), (grad_q, grad_k) = _Shape.of(qk, num_heads), _halves(qk), _halves(grad_qk)
    mask, grad_mask, grad_sums = torch.empty_like(sums), torch.empty_like(sums), torch.empty_like(sums)
    grad_coefficients = torch.empty(3, dtype=torch.float64, device=qk.device) if learns else None
    lif = ((1, sums[0].numel()), Norm(), coefficients, NeuronCode(*code))
    run_forward(sums, mask, *lif)
    shape.add_up(grad_out, shape.channels, k, 2 * shape.channels, grad_mask)
    run_backward(grad_mask, sums, *lif, grad_coefficients=grad_coefficients, grad_x=grad_sums)
    tiling = device.Tiling.of(shape.rows, shape.channels)
    gradients = (mask, grad_sums, grad_out, grad_q, grad_k)
    launch(apply_backward_kernel, tiling.programs, *gradients, *shape, ROWS=tiling.rows, COLS=tiling.cols)
    if grad_coefficients is None:
        return grad_qk, coefficients.new_empty(0)
    return grad_qk, grad_coefficients.to(coefficients.device)
