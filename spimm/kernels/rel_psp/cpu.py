"""Spike times through the compiled extension, channels-last. Kept for the backward pass: the drive alone."""

from functools import partial

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import STORAGE, channels_last, extension, num_threads
from spimm.kernels.door import Layout
from spimm.kernels.rel_psp import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define("rel_psp(Tensor drive, float window, int pool, bool closed, float clip) -> Tensor")
_library.define(
    "rel_psp_backward(Tensor grad, Tensor drive, float window, int pool, bool closed, float clip) -> Tensor"
)


def rel_psp(drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    """As reference.rel_psp."""
    spikes: Tensor = torch.ops.spimm.rel_psp(_laid_out(drive, maps=drive.dim() == 5), window, pool, closed, clip)
    return spikes


def _laid_out(x: Tensor, *, maps: bool) -> Tensor:
    """Maps channels-last, anything else contiguous."""
    return channels_last(x, -3) if maps else x.contiguous()


def _last(drive: Tensor) -> int:
    """The dimension that is last in memory."""
    return 2 if drive.dim() == 5 else -1


def _gradient_of_times(drive: Tensor, pool: int) -> Layout:
    """Of the gradient of the first of both results."""
    if pool == 1:
        return Layout.of(drive.dtype, drive.shape[1:], min(_last(drive), 1))
    _, images, channels, height, width = drive.shape
    return Layout.of(drive.dtype, (images, channels, height // pool, width // pool), 1)


def _extent(drive: Tensor, pool: int) -> tuple[int, ...]:
    if pool == 1:
        return drive[0].numel(), 1, 1, 1, 1
    _, images, channels, height, width = drive.shape
    return images, height, width, channels, pool


def _empty_spikes(drive: Tensor, pool: int) -> Tensor:
    if pool == 1:
        return torch.empty_like(drive)
    planes, images, channels, height, width = drive.shape
    return drive.new_empty(planes, images, height // pool, width // pool, channels).movedim(-1, 2)


@torch.library.impl(_library, "rel_psp", "CPU")
def _forward(drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    spikes = _empty_spikes(drive, pool)
    settings = STORAGE[drive.dtype], (window, clip, closed), _extent(drive, pool), num_threads()
    last = _last(drive)
    given, made = Layout.like(drive, last).address("drive", drive), Layout.like(spikes, last).address("spikes", spikes)
    extension().rel_psp_forward(*settings, given, made)
    return spikes


@torch.library.register_fake("spimm::rel_psp", lib=_library)
def _forward_fake(drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    return _empty_spikes(drive, pool)


@torch.library.impl(_library, "rel_psp_backward", "CPU")
def _backward(grad: Tensor, drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    grad, grad_drive = _laid_out(grad, maps=drive.dim() == 5), torch.empty_like(drive)
    settings = STORAGE[drive.dtype], (window, clip, closed), _extent(drive, pool), num_threads()
    drives, grads = Layout.like(drive, _last(drive)), _gradient_of_times(drive, pool)
    addresses = drives.address("drive", drive), grads.address("grad", grad), drives.address("grad_drive", grad_drive)
    extension().rel_psp_backward(*settings, *addresses)
    return grad_drive


@torch.library.register_fake("spimm::rel_psp_backward", lib=_library)
def _backward_fake(grad: Tensor, drive: Tensor, window: float, pool: int, closed: bool, clip: float) -> Tensor:
    return torch.empty_like(drive)


def _setup_context(ctx, inputs, output) -> None:
    drive, *ctx.settings = inputs
    ctx.save_for_backward(drive)


def _autograd(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    (drive,) = ctx.saved_tensors
    if second.wanted():
        found = second.gradients("rel_psp", partial(_run, ctx), (drive,), (True,), (grad,))
        return *found, None, None, None, None
    return torch.ops.spimm.rel_psp_backward(grad[0], drive, *ctx.settings), None, None, None, None


def _run(ctx, drive: Tensor) -> Tensor:
    return reference.rel_psp(drive, *ctx.settings)


torch.library.register_autograd("spimm::rel_psp", _autograd, setup_context=_setup_context, lib=_library)
