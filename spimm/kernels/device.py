"""Device code that the Triton kernels share: charge, fire, reset and back, the surrogates' slopes, tiles, sums.

Needs Triton: imported with the first kernel, never by `import spimm`. Sizes that change nothing in the code of a kernel
are not specialised: another batch size must not wait for the compiler. A step of an op is a matrix [rows, channels],
channels fastest in memory; a program owns tiles of it and takes each through all time steps, so that inputs are read
once and potentials stay in registers. Potentials are measured from the reset potential.
"""

import functools
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

# Shapes of surrogate derivatives; the numbers are those of spimm/surrogate.py.
SIGMOID, ATAN, RECTANGLE, TRIANGLE, FAST_SIGMOID = (tl.constexpr(shape) for shape in range(5))

MAX_GROUPS = 512  # partial sums of a column: enough programs for any GPU, few enough to be added up by one
MAX_UNROLLED = 16  # time steps that a kernel takes in one go: more cost registers, and seconds at the first call
TILE = 1024  # elements


@triton.jit
def surrogate_slope(u, a, b, SHAPE: tl.constexpr):
    """ds/du of every surrogate, u = h - threshold. Equations and sources: spimm/surrogate.py."""
    distance = tl.abs(u)
    if SHAPE == SIGMOID:  # even in u: exp(-a |u|) cannot overflow
        e = tl.exp(-a * distance)
        slope = a * e / ((1 + e) * (1 + e))
    elif SHAPE == ATAN:
        w = 1.57079632679 * a * u
        slope = 0.5 * a / (1 + w * w)
    elif SHAPE == RECTANGLE:  # height a, half-width b
        slope = tl.where(distance < b, a, 0.0)
    elif SHAPE == TRIANGLE:  # height a, half-width b
        rest = a - distance * (a / b)
        slope = tl.where(rest < 0, 0.0, rest)  # NaN stays
    elif SHAPE == FAST_SIGMOID:
        d = 1 + a * distance
        slope = 1 / (d * d)
    else:  # Gaussian: density of N(0, a^2)
        slope = 0.39894228 / a * tl.exp(-0.5 * (u / a) * (u / a))
    return slope


@triton.jit
def charge(v, z, decay, gain):
    """The potential before the reset; fused as written, so that a backward pass recomputes the forward's very bits."""
    return tl.fma(v, decay, gain * z)


@triton.jit
def after_reset(h, threshold, SOFT: tl.constexpr):
    if SOFT:
        v = tl.where(h >= threshold, h - threshold, h)
    else:
        v = tl.where(h >= threshold, 0.0, h)
    return v


@triton.jit
def reverse_step(h, grad_s, grad_v, threshold, a, b, SHAPE: tl.constexpr, SOFT: tl.constexpr, ATTACHED: tl.constexpr):
    """Gradients of h and of the threshold, from those of the spike and of the potential after the reset."""
    fires = h >= threshold
    if ATTACHED:
        grad_s -= (threshold if SOFT else h) * grad_v
    grad_u = grad_s * surrogate_slope(h - threshold, a, b, SHAPE)
    if SOFT:
        grad_h = grad_u + grad_v
        grad_threshold = -grad_u - tl.where(fires, grad_v, 0.0)
    else:
        grad_h = grad_u + tl.where(fires, 0.0, grad_v)
        grad_threshold = -grad_u
    return grad_h, grad_threshold


@triton.jit
def load(pointer, mask):
    return tl.load(pointer, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_scalar(pointer):
    return tl.load(pointer).to(tl.float32)


@triton.jit
def tile_columns(tile, channels, COLS: tl.constexpr):
    col_tiles = (channels + COLS - 1) // COLS
    return (tile % col_tiles) * COLS + tl.arange(0, COLS)


@triton.jit
def tile_at(tile, rows, channels, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Places of a tile's elements within a step, which of them exist, their rows (as a column) and channels."""
    col_tiles = (channels + COLS - 1) // COLS
    row = ((tile // col_tiles).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    col = tile_columns(tile, channels, COLS)
    return row * channels + col[None, :], (row < rows) & (col < channels)[None, :], row, col


@triton.jit(do_not_specialize=["groups"])
def column_sums(partial, out, groups, columns, GROUPS: tl.constexpr, COLS: tl.constexpr):
    """out[columns] = sum over the groups of partial[groups, columns], in float64 and always in the same order."""
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    total = tl.full([GROUPS, COLS], 0, tl.float64)
    for start in range(0, groups, GROUPS):
        group = start + tl.arange(0, GROUPS)
        at = group[:, None] * columns + col[None, :]
        total += tl.load(partial + at, mask=(group < groups)[:, None] & (col < columns)[None, :], other=0.0)
    tl.store(out + col, tl.sum(total, 0), mask=col < columns)


def launch(kernel: Any, programs: int, *arguments: Any, **constants: Any) -> None:
    """Runs a kernel on so many programs, which may be none."""
    if programs:
        kernel[(programs,)](*arguments, **constants)


def add_up(partial: Tensor, out: Tensor) -> Tensor:
    """out[...] filled with the sum of partial [groups, ...], deterministic."""
    columns = out.numel()
    width = min(32, triton.next_power_of_2(columns))
    programs = triton.cdiv(columns, width)
    launch(column_sums, programs, partial, out, len(partial), columns, GROUPS=2 * TILE // width, COLS=width)
    return out


class Tiling(NamedTuple):
    """Tiles of `rows` x `cols` elements over a matrix, and the number of programs that share them out.

    Program p owns the tiles p, p + programs, ...; `groups` of them own tiles of the same columns.
    """

    rows: int
    cols: int
    tiles: int
    groups: int
    programs: int

    @classmethod
    def of(cls, rows: int, channels: int, elements: int | None = None, *, sums: bool = False) -> "Tiling":
        """One tile for each program, or with `sums` at most MAX_GROUPS programs for the same columns."""
        elements = elements or TILE
        cols = width_of_tile(channels, elements if rows == 1 else 128)
        row_tiles, col_tiles = triton.cdiv(rows, elements // cols), triton.cdiv(channels, cols)
        groups = min(row_tiles, MAX_GROUPS) if sums else row_tiles
        return cls(elements // cols, cols, row_tiles * col_tiles, groups, groups * col_tiles)


def width_of_tile(channels: int, most: int) -> int:
    """A power of two up to `most`; of the three widest, the one that pads the channels least."""
    widest = min(most, triton.next_power_of_2(max(1, channels)))
    widths = [width for width in (widest, widest // 2, widest // 4) if width >= min(32, widest)]
    return min(widths, key=lambda width: triton.cdiv(channels, width) * width)


def backward_tile(num_steps: int) -> int:
    """Elements of a tile whose potentials at so many time steps fit into the registers of a program."""
    return max(TILE // 4, min(TILE, triton.next_power_of_2(4 * TILE // num_steps + 1) // 2))


def unrolled(num_steps: int) -> int:
    """Time steps that a kernel takes in one go: all up to MAX_UNROLLED, else the largest divisor up to it."""
    return next(steps for steps in range(min(num_steps, MAX_UNROLLED), 0, -1) if num_steps % steps == 0)


def on_device(coefficients: Tensor, device: torch.device) -> Tensor:
    """The coefficients where the kernels can read them: learnt ones never visit the host."""
    if coefficients.device == device:
        return coefficients
    return _constants(tuple(coefficients.tolist()), device)


@functools.lru_cache(maxsize=256)
def _constants(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, device=device)
