"""LIF on CUDA tensors, with optional batch normalisation in front: the kernels of `lif`, `norm_lif` and its variants.

One text serves every form: a pointer that is None takes its part out at compile time. The backward recomputes the
potentials; over more time steps than registers hold, it starts from potentials kept once in that many steps.
"""

# pyright: reportGeneralTypeIssues=false
# (Triton alone can iterate over tl.static_range)
import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from spimm.kernels import device
from spimm.kernels.cpu import NeuronCode, empty_steps
from spimm.kernels.device import after_reset, charge, launch, load, load_scalar, reverse_step, tile_at, tile_columns


@triton.jit
def norm_of(weight, bias, mean, variance, eps, col, channels):
    """Mean, 1 / deviation, scale and shift of a tile's columns, as rows; those that change nothing without a norm."""
    if weight is None:
        m, rstd, scale, shift = 0.0, 1.0, 1.0, 0.0
    else:
        rstd = tl.rsqrt(tl.load(variance + col, mask=col < channels, other=1.0)[None, :] + eps)
        m = load(mean + col, col < channels)[None, :]
        scale = load(weight + col, col < channels)[None, :] * rstd
        shift = load(bias + col, col < channels)[None, :]
    return m, rstd, scale, shift


@triton.jit
def normalised(x, residual, exists, m, scale, shift):
    """What a neuron receives: scale (x - m) + shift + residual. x and residual point to the tile's elements."""
    z = tl.fma(load(x, exists) - m, scale, shift)
    if residual is not None:
        z += load(residual, exists)
    return z


@triton.jit
def start(potential, exists, ROWS: tl.constexpr, COLS: tl.constexpr):
    if potential is None:
        v = tl.full([ROWS, COLS], 0, tl.float32)
    else:
        v = load(potential, exists)
    return v


@triton.jit
def shifted(pointer, offset):
    return None if pointer is None else pointer + offset


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    x, residual, added, v0, weight, bias, mean, variance, coefficients, out, membrane, v_end, eps, x_step, plane,
    chunks, rows, channels, STEPS: tl.constexpr, SOFT: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """One tile through `chunks` times STEPS steps. x_step: elements from one step of x to the next, 0 if shared."""
    decay, gain, threshold = load_scalar(coefficients), load_scalar(coefficients + 1), load_scalar(coefficients + 2)
    at, exists, _, col = tile_at(tl.program_id(0), rows, channels, ROWS, COLS)
    m, _, scale, shift = norm_of(weight, bias, mean, variance, eps, col, channels)
    v = start(shifted(v0, at), exists, ROWS, COLS)
    for chunk in range(chunks):
        for i in tl.static_range(STEPS):
            step = tl.cast(chunk * STEPS + i, tl.int64)
            here = step * plane + at
            z = normalised(x + step * x_step + at, shifted(residual, here), exists, m, scale, shift)
            if membrane is not None:
                stored = z.to(membrane.dtype.element_ty)
                tl.store(membrane + here, stored, mask=exists)
                z = stored.to(tl.float32)
            h = charge(v, z, decay, gain)
            value = tl.where(h >= threshold, 1.0, 0.0)
            if added is not None:
                value += load(added + here, exists)
            tl.store(out + here, value, mask=exists)
            v = after_reset(h, threshold, SOFT)
    if v_end is not None:
        tl.store(v_end + at, v, mask=exists)


@triton.jit(do_not_specialize=["rows", "tiles"])
def backward_kernel(
    grad_out, grad_membrane, grad_end, x, residual, membrane, v0, weight, bias, mean, variance, coefficients, starts,
    norm_sums, grad_x, grad_residual, grad_v0, norm_partial, coefficient_partial, eps, count, a, b, plane, chunks, rows,
    channels, tiles, STEPS: tl.constexpr, SHARED: tl.constexpr, SHAPE: tl.constexpr, SOFT: tl.constexpr,
    ATTACHED: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """A program's tiles back in time: the gradients that are not None, and its share of the sums that are not None.

    norm_sums: [2, channels], over the whole batch, of the gradient of the norm's output and of its product with the
    normalised input, where the gradient flows through the statistics; `count` values of x make up a channel.
    """
    decay, gain, threshold = load_scalar(coefficients), load_scalar(coefficients + 1), load_scalar(coefficients + 2)
    nothing = tl.full([ROWS, COLS], 0, tl.float32)
    to_bias, to_weight, to_decay, to_gain, to_threshold = nothing, nothing, nothing, nothing, nothing
    x_step = 0 if SHARED else plane
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        at, exists, _, col = tile_at(tile, rows, channels, ROWS, COLS)
        m, rstd, scale, shift = norm_of(weight, bias, mean, variance, eps, col, channels)
        if norm_sums is not None:
            mean_grad = load(norm_sums + col, col < channels)[None, :] / count
            mean_product = load(norm_sums + channels + col, col < channels)[None, :] / count
        if starts is not None:
            v = start(shifted(v0, at), exists, ROWS, COLS)
            for chunk in range(chunks):
                tl.store(starts + tl.cast(chunk, tl.int64) * plane + at, v, mask=exists)
                for i in range(STEPS):
                    step = tl.cast(chunk * STEPS + i, tl.int64)
                    if membrane is None:
                        here = shifted(residual, step * plane + at)
                        z = normalised(x + step * x_step + at, here, exists, m, scale, shift)
                    else:
                        z = load(membrane + step * plane + at, exists)
                    v = after_reset(charge(v, z, decay, gain), threshold, SOFT)
            tl.debug_barrier()

        grad_v = start(shifted(grad_end, at), exists, ROWS, COLS)
        total = nothing
        for back in range(chunks):
            chunk = chunks - 1 - back
            if starts is None:
                first = start(shifted(v0, at), exists, ROWS, COLS)
            else:
                first = load(starts + tl.cast(chunk, tl.int64) * plane + at, exists)
            v = first
            potentials = ()
            for i in tl.static_range(STEPS):
                step = tl.cast(chunk * STEPS + i, tl.int64)
                if membrane is None:
                    here = shifted(residual, step * plane + at)
                    z = normalised(x + step * x_step + at, here, exists, m, scale, shift)
                else:
                    z = load(membrane + step * plane + at, exists)
                h = charge(v, z, decay, gain)
                potentials = potentials + (h,)  # noqa: RUF005 (Triton unpacks no tuples)
                v = after_reset(h, threshold, SOFT)

            for i in tl.static_range(STEPS - 1, -1, -1):
                step = tl.cast(chunk * STEPS + i, tl.int64)
                here = step * plane + at
                grad_s = load(grad_out + here, exists)
                grad_h, grad_threshold = reverse_step(
                    potentials[i], grad_s, grad_v, threshold, a, b, SHAPE, SOFT, ATTACHED
                )
                if coefficient_partial is not None:
                    if membrane is None:
                        z = normalised(x + step * x_step + at, shifted(residual, here), exists, m, scale, shift)
                    else:
                        z = load(membrane + here, exists)
                    if i == 0:
                        before = first
                    else:
                        before = after_reset(potentials[i - 1], threshold, SOFT)
                    to_decay += grad_h * before
                    to_gain += grad_h * z
                    to_threshold += grad_threshold
                grad_v = decay * grad_h
                grad_z = gain * grad_h
                if grad_membrane is not None:
                    grad_z += load(grad_membrane + here, exists)
                if grad_residual is not None:
                    tl.store(grad_residual + here, grad_z, mask=exists)
                if norm_partial is not None:
                    to_bias += grad_z
                    to_weight += grad_z * (load(x + step * x_step + at, exists) - m) * rstd
                if SHARED:
                    total += grad_z
                elif grad_x is not None:
                    if norm_sums is not None:
                        x_hat = (load(x + here, exists) - m) * rstd
                        grad_z -= mean_grad + x_hat * mean_product
                    tl.store(grad_x + here, grad_z * scale, mask=exists)
        if SHARED and grad_x is not None:
            if norm_sums is not None:
                total -= mean_grad + (load(x + at, exists) - m) * rstd * mean_product
            tl.store(grad_x + at, total * scale, mask=exists)
        if grad_v0 is not None:
            tl.store(grad_v0 + at, grad_v, mask=exists)

    program = tl.program_id(0)
    if norm_partial is not None:
        col = tile_columns(program, channels, COLS)
        group = program // ((channels + COLS - 1) // COLS)
        tl.store(norm_partial + group * 2 * channels + col, tl.sum(to_bias, 0), mask=col < channels)
        tl.store(norm_partial + (group * 2 + 1) * channels + col, tl.sum(to_weight, 0), mask=col < channels)
    if coefficient_partial is not None:
        tl.store(coefficient_partial + program * 3, tl.sum(tl.sum(to_decay, 1), 0))
        tl.store(coefficient_partial + program * 3 + 1, tl.sum(tl.sum(to_gain, 1), 0))
        tl.store(coefficient_partial + program * 3 + 2, tl.sum(tl.sum(to_threshold, 1), 0))


class Norm(NamedTuple):
    """A normalisation in front of the neuron: per-channel tensors in float32, and eps. None changes nothing."""

    weight: Tensor | None = None
    bias: Tensor | None = None
    mean: Tensor | None = None
    variance: Tensor | None = None
    eps: float = 0.0


Matrix = tuple[int, int]  # rows and channels of one step


def run_forward(
    x: Tensor, out: Tensor, matrix: Matrix, norm: Norm, coefficients: Tensor, code: NeuronCode, *,
    residual: Tensor | None = None, added: Tensor | None = None, v0: Tensor | None = None,
    membrane: Tensor | None = None, v_end: Tensor | None = None,
) -> None:  # fmt: skip
    """Fills out, and membrane and v_end if given. Every tensor is dense, in the memory order of the matrix."""
    (rows, channels), num_steps, steps = matrix, len(out), device.unrolled(len(out))
    tiling = device.Tiling.of(rows, channels)
    *per_channel, eps = norm
    launch(
        forward_kernel, tiling.programs, x, residual, added, v0, *per_channel,
        device.on_device(coefficients, x.device), out, membrane, v_end, eps,
        rows * channels if len(x) == num_steps else 0, rows * channels, num_steps // steps, rows, channels,
        STEPS=steps, SOFT=code.soft_reset, ROWS=tiling.rows, COLS=tiling.cols,
    )  # fmt: skip


def run_backward(
    grad_out: Tensor, x: Tensor, matrix: Matrix, norm: Norm, coefficients: Tensor, code: NeuronCode, *,
    norm_sums: Tensor | None = None, grad_norm: Tensor | None = None, grad_coefficients: Tensor | None = None,
    grad_membrane: Tensor | None = None, grad_end: Tensor | None = None, residual: Tensor | None = None,
    membrane: Tensor | None = None, v0: Tensor | None = None, grad_x: Tensor | None = None,
    grad_residual: Tensor | None = None, grad_v0: Tensor | None = None,
) -> None:  # fmt: skip
    """Fills those of grad_x, grad_residual, grad_v0, grad_norm and grad_coefficients that are given.

    grad_norm: [2, channels], gradients of bias and weight. norm_sums: the same from an earlier pass, where the gradient
    flows through the statistics too.
    """
    (rows, channels), num_steps, steps = matrix, len(grad_out), device.unrolled(len(grad_out))
    held = steps if grad_coefficients is None else 2 * steps  # their sums take registers too
    tiling = device.Tiling.of(rows, channels, device.backward_tile(held), sums=grad_norm is not None)
    programs = tiling.programs
    if grad_coefficients is not None and grad_norm is None:
        programs = min(programs, 4 * device.MAX_GROUPS)
    new = functools.partial(torch.empty, dtype=torch.float32, device=x.device)
    starts = new(num_steps // steps, rows * channels) if steps < num_steps else None
    norm_partial = None if grad_norm is None else new(tiling.groups, 2, channels)
    coefficient_partial = None if grad_coefficients is None else new(programs, 3)
    *per_channel, eps = norm
    launch(
        backward_kernel, programs, grad_out, grad_membrane, grad_end, x, residual, membrane, v0, *per_channel,
        device.on_device(coefficients, x.device), starts, norm_sums, grad_x, grad_residual, grad_v0, norm_partial,
        coefficient_partial, eps, float(len(x) * rows), code.surrogate_a, code.surrogate_b, rows * channels,
        num_steps // steps, rows, channels, tiling.tiles, STEPS=steps, SHARED=len(x) != num_steps, SHAPE=code.shape,
        SOFT=code.soft_reset, ATTACHED=not code.detach_reset, ROWS=tiling.rows, COLS=tiling.cols,
    )  # fmt: skip
    for partial, out in ((norm_partial, grad_norm), (coefficient_partial, grad_coefficients)):
        if partial is not None and out is not None:
            device.add_up(partial, out)


def lif(
    x: Tensor, v: Tensor | None, coefficients: Tensor, num_steps: int, keep_v: bool, *code: Any
) -> tuple[Tensor, Tensor]:
    """The CUDA implementation of the op in cpu.py."""
    spikes, v_end = empty_steps(x, num_steps), torch.empty_like(x[0]) if keep_v else None
    run_forward(x, spikes, (1, x[0].numel()), Norm(), coefficients, NeuronCode(*code), v0=v, v_end=v_end)
    return spikes, x.new_empty(0) if v_end is None else v_end


def lif_backward(
    grad_spikes: Tensor, grad_v: Tensor | None, x: Tensor, v: Tensor | None, coefficients: Tensor, learns: bool,
    *code: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The CUDA implementation of the op in cpu.py."""
    grad_spikes = _laid_out_as(empty_steps(x, len(grad_spikes)), grad_spikes)
    grad_end = None if grad_v is None else _laid_out_as(torch.empty_like(x[0]), grad_v)
    grad_x, grad_v0 = torch.empty_like(x), x.new_empty(0) if v is None else torch.empty_like(v)
    grad_coefficients = torch.empty(3 if learns else 0, dtype=coefficients.dtype, device=x.device)
    run_backward(
        grad_spikes, x, (1, x[0].numel()), Norm(), coefficients, NeuronCode(*code), grad_end=grad_end, v0=v,
        grad_x=grad_x, grad_v0=None if v is None else grad_v0, grad_coefficients=grad_coefficients if learns else None,
    )  # fmt: skip
    return grad_x, grad_v0, grad_coefficients.to(coefficients.device)


def _laid_out_as(like: Tensor, tensor: Tensor) -> Tensor:
    return tensor if tensor.stride() == like.stride() else like.copy_(tensor)
