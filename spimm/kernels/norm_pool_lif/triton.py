"""Batch norm, 3x3 max-pool of stride 2 and LIF on CUDA tensors.

A norm is monotonous in each channel, so the pool may come first: it picks the largest x where the weight is positive,
the smallest where it is negative. What it picks is exact in the dtype of x; the norm with given statistics and the
neuron follow on a quarter of the elements.
"""

# pyright: reportGeneralTypeIssues=false
# (Triton alone can iterate over tl.static_range)
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spimm.kernels import device
from spimm.kernels.cpu import NeuronCode, channels_last
from spimm.kernels.device import launch, load, tile_at
from spimm.kernels.lif.triton import Norm, norm_of, run_backward, run_forward
from spimm.kernels.norm_lif.triton import matrix_of, used_statistics
from spimm.kernels.norm_pool_lif.cpu import _empty_gradients, _empty_pooled


@triton.jit(do_not_specialize=["height", "width", "pooled_height", "pooled_width", "rows"])
def pool_kernel(
    x, weight, picked, winners, height, width, pooled_height, pooled_width, rows, channels, ROWS: tl.constexpr,
    COLS: tl.constexpr,
):  # fmt: skip
    """picked = x at the first largest weight x of each window, row by row; winners: its place in the window, 0..8.

    Rows are the pooled pixels of all images and steps.
    """
    at, exists, row, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    left = row % pooled_width * 2 - 1
    top = row // pooled_width % pooled_height * 2 - 1
    image = row // pooled_width // pooled_height * height
    rises = load(weight + col, col < channels)[None, :]
    best = tl.full([ROWS, COLS], float("-inf"), tl.float32)
    value = tl.full([ROWS, COLS], 0, tl.float32)
    winner = tl.full([ROWS, COLS], -1, tl.int32)
    for place in tl.static_range(9):
        y, z = top + place // 3, left + place % 3
        inside = exists & (y >= 0) & (y < height) & (z >= 0) & (z < width)
        candidate = load(x + ((image + y) * width + z) * channels + col[None, :], inside)
        key = tl.where(rises > 0, candidate, tl.where(rises < 0, -candidate, 0.0))
        better = inside & ((key > best) | (key != key) | (winner < 0))  # not a number wins, as it does in torch
        best = tl.where(better, key, best)
        value = tl.where(better, candidate, value)
        winner = tl.where(better, place, winner)
    tl.store(picked + at, value, mask=exists)
    if winners is not None:
        tl.store(winners + at, winner, mask=exists)


@triton.jit(do_not_specialize=["height", "width", "pooled_height", "pooled_width", "rows"])
def unpool_kernel(
    grad_picked, winners, x, weight, bias, mean, variance, norm_sums, grad_x, eps, count, height, width, pooled_height,
    pooled_width, rows, channels, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Gradient of x: of the windows it has won and, with norm_sums, through the statistics. Rows are pixels."""
    at, exists, row, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    right, down = row % width, row // width % height
    image = row // width // height * pooled_height
    grad = tl.full([ROWS, COLS], 0, tl.float32)
    for k in tl.static_range(4):  # the windows above or below, to the left or right, that reach the pixel
        y, z = (down + k // 2) // 2, (right + k % 2) // 2
        reached = exists & (y < pooled_height) & (z < pooled_width)
        if k // 2 == 1:
            reached = reached & (down % 2 == 1)
        if k % 2 == 1:
            reached = reached & (right % 2 == 1)
        place = (down - 2 * y + 1) * 3 + right - 2 * z + 1
        window = ((image + y) * pooled_width + z) * channels + col[None, :]
        won = tl.load(winners + window, mask=reached, other=9).to(tl.int32) == place
        grad += load(grad_picked + window, reached & won)
    if norm_sums is not None:
        m, rstd, scale, _ = norm_of(weight, bias, mean, variance, eps, col, channels)
        mean_grad = load(norm_sums + col, col < channels)[None, :] / count
        mean_product = load(norm_sums + channels + col, col < channels)[None, :] / count
        grad -= scale * (mean_grad + (load(x + at, exists) - m) * rstd * mean_product)
    tl.store(grad_x + at, grad, mask=exists)


def _pool(x: Tensor, weight: Tensor, *, keep_winners: bool = False) -> tuple[Tensor, Tensor | None]:
    picked = _empty_pooled(x, len(x))
    winners = torch.empty_like(picked, dtype=torch.uint8) if keep_winners else None
    rows, channels = picked.numel() // len(weight), len(weight)
    tiling = device.Tiling.of(rows, channels)
    launch(
        pool_kernel, tiling.programs, x, weight, picked, winners, *x.shape[3:], *picked.shape[3:], rows, channels,
        ROWS=tiling.rows, COLS=tiling.cols,
    )  # fmt: skip
    return picked, winners


def norm_pool_lif(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, coefficients: Tensor,
    num_steps: int, eps: float, *code: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    used, spikes = used_statistics(x, weight, mean, variance), _empty_pooled(x, num_steps)
    picked, _ = _pool(x, weight)
    run_forward(picked, spikes, matrix_of(picked), Norm(weight, bias, *used, eps), coefficients, NeuronCode(*code))
    return spikes, *used


def norm_pool_lif_backward(
    grad_spikes: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    grads = _empty_gradients(x, weight, coefficients, learns)
    grad_x, grad_weight, grad_bias, grad_coefficients = grads
    picked, winners = _pool(x, weight, keep_winners=True)
    grad_picked = torch.empty_like(picked, dtype=torch.float32)
    grad_norm = torch.empty(2, len(weight), dtype=torch.float32, device=x.device)
    to_coefficients = torch.empty(3, dtype=torch.float64, device=x.device) if learns else None
    norm = Norm(weight, bias, mean, variance, eps)
    run_backward(
        channels_last(grad_spikes), picked, matrix_of(picked), norm, coefficients, NeuronCode(*code),
        grad_norm=grad_norm, grad_coefficients=to_coefficients, grad_x=grad_picked,
    )  # fmt: skip
    rows, channels = x.numel() // len(weight), len(weight)
    tiling = device.Tiling.of(rows, channels)
    launch(
        unpool_kernel, tiling.programs, grad_picked, winners, x, weight, bias, mean, variance,
        grad_norm if of_batch else None, grad_x, eps, float(rows), *x.shape[3:], *picked.shape[3:], rows, channels,
        ROWS=tiling.rows, COLS=tiling.cols,
    )  # fmt: skip
    grad_bias.copy_(grad_norm[0])
    grad_weight.copy_(grad_norm[1])
    if to_coefficients is not None:
        grad_coefficients.copy_(to_coefficients)
    return grads
