"""Batch norm, residual and LIF on CUDA tensors: statistics in two stages, then one kernel; backward in two passes.

The second pass recomputes what the first has summed up instead of reading it back: fewer bytes, no rounding between.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from spimm.kernels import device
from spimm.kernels.cpu import NeuronCode, channels_last, empty_steps
from spimm.kernels.device import launch, load, tile_at, tile_columns
from spimm.kernels.lif.triton import Matrix, Norm, run_backward, run_forward
from spimm.kernels.norm_lif.cpu import _empty_gradients


@triton.jit(do_not_specialize=["rows", "tiles"])
def moments_kernel(x, partial, rows, channels, tiles, ROWS: tl.constexpr, COLS: tl.constexpr):
    """A program's part of the sums of x and x^2 over the rows, of values shifted by the first row.

    The shift keeps E[x^2] - E[x]^2 free of cancellation when the mean is large against the spread.
    """
    program = tl.program_id(0)
    columns = tile_columns(program, channels, COLS)
    first = load(x + columns, columns < channels)[None, :]
    value_sum = tl.full([ROWS, COLS], 0, tl.float32)
    square_sum = tl.full([ROWS, COLS], 0, tl.float32)
    for tile in range(program, tiles, tl.num_programs(0)):
        at, exists, _, _ = tile_at(tile, rows, channels, ROWS, COLS)
        difference = tl.where(exists, load(x + at, exists) - first, 0.0)
        value_sum += difference
        square_sum += difference * difference
    group = program // ((channels + COLS - 1) // COLS)
    tl.store(partial + group * 2 * channels + columns, tl.sum(value_sum, 0), mask=columns < channels)
    tl.store(partial + (group * 2 + 1) * channels + columns, tl.sum(square_sum, 0), mask=columns < channels)


@triton.jit(do_not_specialize=["rows", "groups"])
def finish_moments(x, partial, mean, variance, rows, channels, groups, GROUPS: tl.constexpr, COLS: tl.constexpr):
    """Mean and biased variance of the channels from the sums of all groups, in float64."""
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    value_sum = tl.full([GROUPS, COLS], 0, tl.float64)
    square_sum = tl.full([GROUPS, COLS], 0, tl.float64)
    for begin in range(0, groups, GROUPS):
        group = begin + tl.arange(0, GROUPS)
        at = group[:, None] * 2 * channels + col[None, :]
        exists = (group < groups)[:, None] & (col < channels)[None, :]
        value_sum += tl.load(partial + at, mask=exists, other=0.0)
        square_sum += tl.load(partial + at + channels, mask=exists, other=0.0)
    offset = tl.sum(value_sum, 0) / rows
    first = load(x + col, col < channels)
    tl.store(mean + col, first + offset, mask=col < channels)
    spread = tl.sum(square_sum, 0) / rows - offset * offset
    tl.store(variance + col, tl.where(spread < 0, 0.0, spread), mask=col < channels)  # NaN stays


def channel_moments(x: Tensor, mean: Tensor, variance: Tensor) -> None:
    """Fills mean and variance, [C], with those of x [T, B, C, ...] in channels-last memory."""
    channels = len(mean)
    rows = x.numel() // channels
    tiling = device.Tiling.of(rows, channels, sums=True)
    partial = torch.empty(tiling.groups, 2, channels, dtype=torch.float32, device=x.device)
    tile = {"ROWS": tiling.rows, "COLS": tiling.cols}
    launch(moments_kernel, tiling.programs, x, partial, rows, channels, tiling.tiles, **tile)
    moments = (mean, variance, rows, channels, tiling.groups)
    launch(finish_moments, triton.cdiv(channels, 32), x, partial, *moments, GROUPS=2 * device.TILE // 32, COLS=32)


def matrix_of(x: Tensor) -> Matrix:
    return x[0].numel() // x.shape[2], x.shape[2]


def used_statistics(x: Tensor, weight: Tensor, mean: Tensor | None, variance: Tensor | None) -> tuple[Tensor, Tensor]:
    """Those of the batch, or copies of the given ones: an op must not return its inputs."""
    if mean is not None and variance is not None:
        return mean.clone(), variance.clone()
    used = torch.empty_like(weight), torch.empty_like(weight)
    channel_moments(x, *used)
    return used


def norm_lif(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    added: Tensor | None, coefficients: Tensor, num_steps: int, eps: float, *code: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    out, used = empty_steps(x, num_steps), used_statistics(x, weight, mean, variance)
    norm = Norm(weight, bias, *used, eps)
    run_forward(x, out, matrix_of(x), norm, coefficients, NeuronCode(*code), residual=residual, added=added)
    return out, *used


def norm_lif_membrane(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    coefficients: Tensor, num_steps: int, eps: float, *code: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    out, membrane = empty_steps(x, num_steps), empty_steps(x, num_steps)
    used = used_statistics(x, weight, mean, variance)
    norm = Norm(weight, bias, *used, eps)
    run_forward(x, out, matrix_of(x), norm, coefficients, NeuronCode(*code), residual=residual, membrane=membrane)
    return membrane, out, *used


def norm_lif_backward(
    grad_spikes: Tensor, grad_membrane: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor,
    variance: Tensor, residual: Tensor | None, membrane: Tensor | None, to_residual: bool, coefficients: Tensor,
    of_batch: bool, learns: bool, eps: float, *code: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    grads = _empty_gradients(x, weight, len(grad_spikes), to_residual, coefficients, learns)
    grad_x, grad_weight, grad_bias, grad_residual, grad_coefficients = grads
    grad_norm = torch.empty(2, len(weight), dtype=torch.float32, device=x.device)
    inputs = {"residual": residual, "membrane": membrane}
    inputs["grad_membrane"] = None if grad_membrane is None else channels_last(grad_membrane)
    results = {"grad_x": grad_x, "grad_residual": grad_residual if to_residual else None}
    sums = {"grad_norm": grad_norm, "grad_coefficients": None}
    if learns:
        sums["grad_coefficients"] = torch.empty(3, dtype=torch.float64, device=x.device)
    call = (channels_last(grad_spikes), x, matrix_of(x), Norm(weight, bias, mean, variance, eps), coefficients)
    if of_batch:
        run_backward(*call, NeuronCode(*code), **inputs, **sums)
        run_backward(*call, NeuronCode(*code), **inputs, **results, norm_sums=grad_norm)
    else:
        run_backward(*call, NeuronCode(*code), **inputs, **sums, **results)
    grad_bias.copy_(grad_norm[0])
    grad_weight.copy_(grad_norm[1])
    if sums["grad_coefficients"] is not None:
        grad_coefficients.copy_(sums["grad_coefficients"])
    return grads
