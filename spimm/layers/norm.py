"""Batch norm over time and batch, alone or in one op with the neuron behind it.

Both take x: [T, B, C, H, W], or [1, ...] with `num_steps` for an input that is the same at every step: it is normalised
once, and running statistics move as if it had been repeated.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from spimm.kernels import norm_lif, norm_pool_lif
from spimm.layers.time import over_time
from spimm.neurons import MultiLIF, Neuron

_frozen = ContextVar("frozen running statistics", default=False)


@contextlib.contextmanager
def frozen_statistics() -> Iterator[None]:
    """Within the context no running statistics move: for a computation that is done a second time."""
    token = _frozen.set(True)
    try:
        yield
    finally:
        _frozen.reset(token)


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, num_steps: int | None = None) -> Tensor:
    """BN(x), shaped as x; updates the running statistics in training mode."""
    if not _needs_batch_statistics(norm):
        return over_time(norm, x)
    count = _count(x, num_steps)
    y, mean, rstd = torch.native_batch_norm(x.flatten(0, 1), norm.weight, norm.bias, None, None, True, 0.0, norm.eps)
    _update_running(norm, mean, rstd**-2 - norm.eps, count)
    return y.unflatten(0, x.shape[:2])


def norm_neuron(
    x: Tensor,
    norm: nn.BatchNorm2d,
    neuron: Neuron | MultiLIF,
    num_steps: int | None = None,
    added: Tensor | None = None,
    *,
    adds_first: bool = False,
) -> Tensor:
    """neuron(BN(x)) + added, or with `adds_first` neuron(BN(x) + added): [T, B, C, H, W], through the fused op.

    Several thresholds are those of a MultiLIF that sums. Updates the running statistics in training mode.
    """
    op = norm_lif_with(added, adds_first=adds_first)
    if isinstance(neuron, MultiLIF):
        op, neuron = partial(op, thresholds=neuron.thresholds), neuron.neuron
    return _fused(op, x, norm, neuron, num_steps)


def fuses(neuron: nn.Module | None) -> bool:
    """Whether norm_neuron serves that neuron, or block in the place of one."""
    return isinstance(neuron, Neuron) or (isinstance(neuron, MultiLIF) and neuron.combine == "sum")


def norm_lif_with(added: Tensor | None, *, adds_first: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """norm_lif that takes the shortcut in, behind the neuron or with `adds_first` in front of it."""
    return partial(norm_lif, residual=added) if adds_first else partial(norm_lif, added=added)


def norm_pool_neuron(x: Tensor, norm: nn.BatchNorm2d, neuron: Neuron, num_steps: int | None = None) -> Tensor:
    """As norm_neuron with `max_pool` between norm and neuron: [T, B, C, H / 2, W / 2], rounded up."""
    return _fused(norm_pool_lif, x, norm, neuron, num_steps)


def max_pool(x: Tensor) -> Tensor:
    """The pool that norm_pool_neuron fuses: 3x3, stride 2. x: [N, C, H, W] -> [N, C, H / 2, W / 2], rounded up."""
    return max_pool2d(x, 3, stride=2, padding=1)


def _fused(
    op: Callable[..., tuple[Tensor, Tensor, Tensor]],
    x: Tensor,
    norm: nn.BatchNorm2d,
    neuron: Neuron,
    num_steps: int | None,
) -> Tensor:
    batch = _needs_batch_statistics(norm)
    count = _count(x, num_steps) if batch else 0
    y, mean, variance = op(
        x,
        norm.weight,
        norm.bias,
        neuron.dynamics(),
        mean=None if batch else norm.running_mean,
        variance=None if batch else norm.running_var,
        num_steps=num_steps,
        eps=norm.eps,
    )
    if batch:
        _update_running(norm, mean, variance, count)
    return y


def _needs_batch_statistics(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


def _count(x: Tensor, num_steps: int | None) -> int:
    count = (num_steps or len(x)) * x[0].numel() // x.shape[2]
    if count < 2:
        raise ValueError(f"batch norm in training needs two values a channel; an input {tuple(x.shape)} has {count}")
    return count


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int) -> None:
    """Moves the running statistics towards a batch of `count` values a channel (its biased variance made unbiased)."""
    if not norm.training or norm.running_mean is None or _frozen.get():
        return
    assert norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    weight = float(1 / norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), weight)
