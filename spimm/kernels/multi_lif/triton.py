"""Several LIFs with one input on CUDA tensors: all potentials of an element in one program, from one read of x.

A matrix has a row for each pixel and a column for each channel of x; "concat" puts the columns of a branch behind those
of the one before.
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
from spimm.kernels.device import after_reset, charge, launch, load, load_scalar, reverse_step, tile_at
from spimm.kernels.multi_lif.cpu import _empty_out


@triton.jit(do_not_specialize=["rows"])
def multi_forward_kernel(
    x, coefficients, out, x_step, plane, chunks, rows, channels, BRANCHES: tl.constexpr, CONCAT: tl.constexpr,
    STEPS: tl.constexpr, SOFT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """coefficients: decay, gain and the thresholds."""
    decay, gain = load_scalar(coefficients), load_scalar(coefficients + 1)
    at, exists, row, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    first_branch = row * (BRANCHES * channels) + col[None, :]
    potentials = (tl.full([ROWS, COLS], 0, tl.float32),) * BRANCHES
    for chunk in range(chunks):
        for i in tl.static_range(STEPS):
            step = tl.cast(chunk * STEPS + i, tl.int64)
            z = load(x + step * x_step + at, exists)
            total = tl.full([ROWS, COLS], 0, tl.float32)
            after = ()
            for k in tl.static_range(BRANCHES):
                threshold = load_scalar(coefficients + 2 + k)
                h = charge(potentials[k], z, decay, gain)
                spikes = tl.where(h >= threshold, 1.0, 0.0)
                if CONCAT:
                    tl.store(out + step * plane * BRANCHES + first_branch + k * channels, spikes, mask=exists)
                total += spikes
                after = after + (after_reset(h, threshold, SOFT),)  # noqa: RUF005 (Triton unpacks no tuples)
            potentials = after
            if not CONCAT:
                tl.store(out + step * plane + at, total, mask=exists)


@triton.jit(do_not_specialize=["rows", "tiles"])
def multi_backward_kernel(
    grad_out, x, coefficients, starts, grad_x, partial, a, b, plane, chunks, rows, channels, tiles,
    BRANCHES: tl.constexpr, CONCAT: tl.constexpr, STEPS: tl.constexpr, SHARED: tl.constexpr, SHAPE: tl.constexpr,
    SOFT: tl.constexpr, ATTACHED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """starts: [chunks, branches, plane], potentials before each chunk of steps, or None if there is one chunk."""
    decay, gain = load_scalar(coefficients), load_scalar(coefficients + 1)
    nothing = tl.full([ROWS, COLS], 0, tl.float32)
    to_decay, to_gain, to_thresholds = nothing, nothing, (nothing,) * BRANCHES
    x_step = 0 if SHARED else plane
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at, exists, row, col = tile_at(tile, rows, channels, ROWS, COLS)
        first_branch = row * (BRANCHES * channels) + col[None, :]
        if starts is not None:
            for k in tl.static_range(BRANCHES):
                threshold = load_scalar(coefficients + 2 + k)
                v = nothing
                for chunk in range(chunks):
                    tl.store(starts + tl.cast(chunk * BRANCHES + k, tl.int64) * plane + at, v, mask=exists)
                    for i in range(STEPS):
                        z = load(x + tl.cast(chunk * STEPS + i, tl.int64) * x_step + at, exists)
                        v = after_reset(charge(v, z, decay, gain), threshold, SOFT)
            tl.debug_barrier()

        grads_v = (nothing,) * BRANCHES
        total = nothing
        for back in range(chunks):
            chunk = chunks - 1 - back
            grads_z, grads_before, thresholds_before = (nothing,) * STEPS, (), ()
            for k in tl.static_range(BRANCHES):
                threshold = load_scalar(coefficients + 2 + k)
                if starts is None:
                    first = nothing
                else:
                    first = load(starts + tl.cast(chunk * BRANCHES + k, tl.int64) * plane + at, exists)
                v = first
                potentials = ()
                for i in tl.static_range(STEPS):
                    z = load(x + tl.cast(chunk * STEPS + i, tl.int64) * x_step + at, exists)
                    h = charge(v, z, decay, gain)
                    potentials = potentials + (h,)  # noqa: RUF005
                    v = after_reset(h, threshold, SOFT)

                grad_v, to_threshold, of_steps = grads_v[k], to_thresholds[k], ()
                for i in tl.static_range(STEPS - 1, -1, -1):
                    step = tl.cast(chunk * STEPS + i, tl.int64)
                    if CONCAT:
                        grad_s = load(grad_out + step * plane * BRANCHES + first_branch + k * channels, exists)
                    else:
                        grad_s = load(grad_out + step * plane + at, exists)
                    grad_h, grad_threshold = reverse_step(
                        potentials[i], grad_s, grad_v, threshold, a, b, SHAPE, SOFT, ATTACHED
                    )
                    if partial is not None:
                        if i == 0:
                            before = first
                        else:
                            before = after_reset(potentials[i - 1], threshold, SOFT)
                        to_decay += grad_h * before
                        to_gain += grad_h * load(x + step * x_step + at, exists)
                        to_threshold += grad_threshold
                    of_steps = (grads_z[i] + gain * grad_h,) + of_steps  # noqa: RUF005
                    grad_v = decay * grad_h
                grads_z = of_steps
                grads_before = grads_before + (grad_v,)  # noqa: RUF005
                thresholds_before = thresholds_before + (to_threshold,)  # noqa: RUF005
            grads_v, to_thresholds = grads_before, thresholds_before
            for i in tl.static_range(STEPS):
                if SHARED:
                    total += grads_z[i]
                else:
                    tl.store(grad_x + tl.cast(chunk * STEPS + i, tl.int64) * plane + at, grads_z[i], mask=exists)
        if SHARED:
            tl.store(grad_x + at, total, mask=exists)

    if partial is not None:
        mine = partial + tl.program_id(0) * (2 + BRANCHES)
        tl.store(mine, tl.sum(tl.sum(to_decay, 1), 0))
        tl.store(mine + 1, tl.sum(tl.sum(to_gain, 1), 0))
        for k in tl.static_range(BRANCHES):
            tl.store(mine + 2 + k, tl.sum(tl.sum(to_thresholds[k], 1), 0))


def run_forward(x: Tensor, out: Tensor, coefficients: Tensor, concat: bool, code: NeuronCode) -> None:
    """Fills out, [T, ...] in channels-last memory. coefficients: decay, gain, thresholds."""
    num_steps, channels, steps = len(out), x.shape[2], device.unrolled(len(out))
    plane = x[0].numel()
    tiling = device.Tiling.of(plane // channels, channels)
    launch(
        multi_forward_kernel, tiling.programs, x, device.on_device(coefficients, x.device), out,
        plane if len(x) == num_steps else 0, plane, num_steps // steps, plane // channels, channels,
        BRANCHES=len(coefficients) - 2, CONCAT=concat, STEPS=steps, SOFT=code.soft_reset, ROWS=tiling.rows,
        COLS=tiling.cols,
    )  # fmt: skip


def run_backward(
    grad_out: Tensor, x: Tensor, grad_x: Tensor, coefficients: Tensor, grad_coefficients: Tensor | None, concat: bool,
    code: NeuronCode,
) -> None:  # fmt: skip
    """Fills grad_x, and grad_coefficients if given."""
    num_steps, channels, steps = len(grad_out), x.shape[2], device.unrolled(len(grad_out))
    plane, branches = x[0].numel(), len(coefficients) - 2
    tiling = device.Tiling.of(plane // channels, channels, device.backward_tile(2 * steps))
    programs, partial, starts = tiling.programs, None, None
    if grad_coefficients is not None:
        programs = min(programs, 4 * device.MAX_GROUPS)
        partial = torch.empty(programs, 2 + branches, dtype=torch.float32, device=x.device)
    if steps < num_steps:
        starts = torch.empty(num_steps // steps, branches, plane, dtype=torch.float32, device=x.device)
    launch(
        multi_backward_kernel, programs, grad_out, x, device.on_device(coefficients, x.device), starts, grad_x,
        partial, code.surrogate_a, code.surrogate_b, plane, num_steps // steps, plane // channels, channels,
        tiling.tiles, BRANCHES=branches, CONCAT=concat, STEPS=steps, SHARED=len(x) != num_steps, SHAPE=code.shape,
        SOFT=code.soft_reset, ATTACHED=not code.detach_reset, ROWS=tiling.rows, COLS=tiling.cols,
    )  # fmt: skip
    if partial is not None and grad_coefficients is not None:
        device.add_up(partial, grad_coefficients)


def multi_lif(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, *code: Any) -> Tensor:
    """The CUDA implementation of the op in cpu.py."""
    out = _empty_out(x, coefficients, num_steps, concat)
    run_forward(x, out, coefficients, concat, NeuronCode(*code))
    return out


def multi_lif_backward(
    grad_out: Tensor, x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, learns: bool, *code: Any
) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of the op in cpu.py."""
    grad_x = torch.empty_like(x)
    grad_coefficients = torch.empty(len(coefficients), dtype=torch.float64, device=x.device) if learns else None
    run_backward(channels_last(grad_out), x, grad_x, coefficients, grad_coefficients, concat, NeuronCode(*code))
    if grad_coefficients is None:
        return grad_x, coefficients.new_empty(0)
    return grad_x, grad_coefficients.to(coefficients.device)
