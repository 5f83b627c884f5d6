"""Spike times on CUDA tensors: one program for a run of pooled outputs, forward and backward (reference.py)."""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from spimm.kernels import device
from spimm.kernels.device import launch, load
from spimm.kernels.rel_psp.cpu import _empty_spikes, _extent, _laid_out


@triton.jit
def fire(z, weights, window, CLOSED: tl.constexpr):
    """What is left of the window, whether the neuron fires, and whether the threshold is met behind the start."""
    end = tl.fma(weights, window, z)
    at_start = z >= window
    below = (end < 0) if CLOSED else (end <= 0)
    crosses = (at_start == 0) & (below == 0)  # true for NaN, which then stays NaN
    left = end / tl.where(crosses, 1 + weights, 1.0)
    left = tl.where(left > window, window, left)
    return tl.where(at_start, window, tl.where(crosses, left, 0.0)), at_start | crosses, crosses


@triton.jit
def first_of_square(i, height, width, channels, POOL: tl.constexpr):
    """The place of the first value of each pooled value's square, maps of height x width pixels."""
    column = i // channels % (width // POOL)
    row = i // channels // (width // POOL)
    line = row // (height // POOL) * height + row % (height // POOL) * POOL
    return (line * width + column * POOL) * channels + i % channels


@triton.jit(do_not_specialize=["count", "size"])
def psp_forward_kernel(
    drive, spikes, window, count, size, height, width, channels, CLOSED: tl.constexpr, POOL: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """count: pooled values; size: values of one plane of the drive."""
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    exists = i < count
    begin = first_of_square(i, height, width, channels, POOL)
    highest = tl.full([TILE], -1, tl.float32)
    any_fired = tl.full([TILE], 0, tl.int1)
    for y in tl.static_range(POOL):  # pyright: ignore
        for x in tl.static_range(POOL):  # pyright: ignore
            at = begin + (y * width + x) * channels
            left, fired, _ = fire(load(drive + at, exists), load(drive + size + at, exists), window, CLOSED)
            highest = tl.where((left > highest) | (left != left), left, highest)
            any_fired = any_fired | fired
    tl.store(spikes + i, highest, mask=exists)
    tl.store(spikes + count + i, any_fired.to(tl.float32), mask=exists)


@triton.jit(do_not_specialize=["count", "size"])
def psp_backward_kernel(
    drive, grad, grad_drive, window, clip, count, size, height, width, channels, CLOSED: tl.constexpr,
    CLIPS: tl.constexpr, POOL: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    exists = i < count
    begin = first_of_square(i, height, width, channels, POOL)
    highest = tl.full([TILE], -1, tl.float32)
    for y in tl.static_range(POOL):  # pyright: ignore
        for x in tl.static_range(POOL):  # pyright: ignore
            at = begin + (y * width + x) * channels
            left, _, _ = fire(load(drive + at, exists), load(drive + size + at, exists), window, CLOSED)
            highest = tl.where(left > highest, left, highest)
    g = load(grad + i, exists)
    waiting = tl.full([TILE], 1, tl.int1)  # the first of the highest takes the gradient
    for y in tl.static_range(POOL):  # pyright: ignore
        for x in tl.static_range(POOL):  # pyright: ignore
            at = begin + (y * width + x) * channels
            weights = load(drive + size + at, exists)
            left, _, crosses = fire(load(drive + at, exists), weights, window, CLOSED)
            wins = waiting & (left == highest)
            waiting = waiting & (left != highest)
            inside = wins & crosses & (left > 0) & (left < window)
            rate = tl.where(inside, 1 / tl.where(inside, 1 + weights, 1.0), 0.0)
            of_z, of_weights = rate, (window - left) * rate
            if CLIPS:
                of_z = tl.minimum(rate, clip)
                of_weights = tl.minimum((2 * window - left) * rate, clip) - window * of_z
            tl.store(grad_drive + at, tl.where(inside, g * of_z, 0.0), mask=exists)
            tl.store(grad_drive + size + at, tl.where(inside, g * of_weights, 0.0), mask=exists)


def rel_psp(drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    """The CUDA implementation of the op in cpu.py."""
    spikes = _empty_spikes(drive, pool)
    _, height, width, channels, _ = _extent(drive, pool)
    count = spikes[0].numel()
    launch(
        psp_forward_kernel, triton.cdiv(count, device.TILE), drive, spikes, window, count, drive[0].numel(), height,
        width, channels, CLOSED=closed, POOL=pool, TILE=device.TILE,
    )  # fmt: skip
    return spikes


def rel_psp_backward(grad: Tensor, drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    """The CUDA implementation of the op in cpu.py."""
    grad = _laid_out(grad, maps=drive.dim() == 5)
    _, height, width, channels, _ = _extent(drive, pool)
    whole = height % pool == 0 and width % pool == 0
    grad_drive = torch.empty_like(drive) if whole else torch.zeros_like(drive)
    count = grad.numel()
    launch(
        psp_backward_kernel, triton.cdiv(count, device.TILE), drive, grad, grad_drive, window,
        0.0 if math.isinf(clip) else clip, count, drive[0].numel(), height, width, channels, CLOSED=closed,
        CLIPS=not math.isinf(clip), POOL=pool, TILE=device.TILE,
    )  # fmt: skip
    return grad_drive
