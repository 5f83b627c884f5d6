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
from torch.nn import functional

from spimm.kernels import norm_lif, norm_pool_lif
from spimm.layers.sync import has_ranks, over_ranks
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


class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks' batches together, on any device.

    Without a process group of more than one rank it is a BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same."""
        return batch_norm(x.unsqueeze(0), self).squeeze(0) if _spans_ranks(self) else super().forward(x)


def sync_norms(model: nn.Module) -> nn.Module:
    """`model` with a SyncBatchNorm2d of the same parameters and buffers in the place of every BatchNorm2d.

    ValueError for batch norms of other kinds and without weight and bias.
    """
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or isinstance(norm, SyncBatchNorm2d):
            continue
        if type(norm) is not nn.BatchNorm2d or not norm.affine:
            raise ValueError(f"{name} is {norm}; batch norm over ranks is for BatchNorm2d with weight and bias")
        settings = (norm.num_features, norm.eps, norm.momentum, True, norm.track_running_stats)
        synced = SyncBatchNorm2d(*settings).train(norm.training)
        synced._parameters, synced._buffers = norm._parameters, norm._buffers
        if not name:
            return synced
        model.set_submodule(name, synced)
    return model


def batch_norm(x: Tensor, norm: nn.BatchNorm2d, num_steps: int | None = None) -> Tensor:
    """BN(x), shaped as x; updates the running statistics in training mode."""
    if not _needs_batch_statistics(norm):
        return over_time(norm, x)
    if _spans_ranks(norm):
        shared = over_ranks(x, norm.weight, norm.bias, norm.eps)
        statistics = (shared.mean, shared.variance, shared.weight, shared.bias)
        y = functional.batch_norm(shared.x.flatten(0, 1), *statistics, training=False, eps=norm.eps)
        _update_running(norm, shared.mean, shared.variance, shared.count * _repeats(x, num_steps))
        return y.unflatten(0, x.shape[:2])
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
    return functional.max_pool2d(x, 3, stride=2, padding=1)


def _fused(
    op: Callable[..., tuple[Tensor, Tensor, Tensor]],
    x: Tensor,
    norm: nn.BatchNorm2d,
    neuron: Neuron,
    num_steps: int | None,
) -> Tensor:
    dynamics, settings = neuron.dynamics(), {"num_steps": num_steps, "eps": norm.eps}
    if not _needs_batch_statistics(norm):
        given = {"mean": norm.running_mean, "variance": norm.running_var}
        return op(x, norm.weight, norm.bias, dynamics, **given, **settings)[0]
    if _spans_ranks(norm):
        shared = over_ranks(x, norm.weight, norm.bias, norm.eps)
        given = {"mean": shared.mean, "variance": shared.variance}
        y, mean, variance = op(shared.x, shared.weight, shared.bias, dynamics, **given, **settings)
        count: int | Tensor = shared.count * _repeats(x, num_steps)
    else:
        count = _count(x, num_steps)
        y, mean, variance = op(x, norm.weight, norm.bias, dynamics, **settings)
    _update_running(norm, mean, variance, count)
    return y


def _spans_ranks(norm: nn.BatchNorm2d) -> bool:
    return isinstance(norm, SyncBatchNorm2d) and norm.training and has_ranks()


def _needs_batch_statistics(norm: nn.BatchNorm2d) -> bool:
    return norm.training or norm.running_mean is None


def _count(x: Tensor, num_steps: int | None) -> int:
    count = _repeats(x, num_steps) * x.numel() // x.shape[2]
    if count < 2:
        raise ValueError(f"batch norm in training needs two values a channel; an input {tuple(x.shape)} has {count}")
    return count


def _repeats(x: Tensor, num_steps: int | None) -> int:
    """How often an input shared by all steps counts."""
    return (num_steps or len(x)) // len(x)


@torch.no_grad()
def _update_running(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Moves the running statistics towards a batch of `count` values a channel (its biased variance made unbiased)."""
    if not norm.training or norm.running_mean is None or _frozen.get():
        return
    assert norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    weight = float(1 / norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), weight)
