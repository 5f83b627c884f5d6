"""Batch norm over time and batch, by itself or in one op with the neuron after it.

Both take x: [T, B, C, H, W], or [1, ...] with `num_steps` for an input that is the same at every step: it is normalised
once, and running statistics move as if it had been repeated. A norm or neuron with hooks or with a forward of its own
(`neurons.runs_by_itself`), and a norm of another kind, is called: neurons with [T, B, C, H, W], norms with
[T B, C, H, W].
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from spimm.kernels import norm_lif, norm_pool_lif
from spimm.kernels.cpu import channels_last
from spimm.layers.sync import has_ranks, over_ranks
from spimm.layers.time import fold_time, over_time, unfold_time
from spimm.neurons import MultiLIF, Neuron
from spimm.neurons.by_itself import call_with, fusible, has_own_forward, kept_buffers, runs_by_itself

_frozen = ContextVar("frozen running statistics", default=False)


FUSED_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
FROZEN_NORM = "FrozenBatchNorm2d"
"""A class of torchvision (and detectron2), known by its name: nothing of theirs is imported for it."""
Norm = nn.BatchNorm2d | nn.SyncBatchNorm


@contextlib.contextmanager
def frozen_statistics() -> Iterator[None]:
    """Within the context no running statistics move: for a computation that is done a second time."""
    token = _frozen.set(True)
    try:
        yield
    finally:
        _frozen.reset(token)


@fusible
class SyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose statistics in training are those of all ranks' batches together, on any device.

    Without a process group of more than one rank it is a BatchNorm2d.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> same."""
        x = channels_last(x, 1)
        return _normalised(x.unsqueeze(0), self, None).squeeze(0) if _spans_ranks(self) else super().forward(x)


def sync_norms(model: nn.Module) -> nn.Module:
    """`model` with a SyncBatchNorm2d of the same parameters and buffers in the place of every BatchNorm2d.

    torch's SyncBatchNorm stays: within our layers its statistics are those of all ranks too. ValueError for batch norms
    of other kinds and without weight and bias.
    """
    for name, norm in list(model.named_modules()):
        if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or isinstance(
            norm, SyncBatchNorm2d | nn.SyncBatchNorm
        ):
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


def batch_norm(x: Tensor, norm: nn.Module, num_steps: int | None = None) -> Tensor:
    """BN(x), shaped as x; updates the running statistics in training mode."""
    x = channels_last(x)  # torch's backward pass takes a gradient in any memory order for such an input
    by_itself = runs_by_itself(norm)
    if not isinstance(norm, FUSED_NORMS) or has_own_forward(norm):
        with kept_buffers(norm) if _frozen.get() else contextlib.nullcontext():
            return over_time(norm, x).to(x.dtype)
    if not _needs_batch_statistics(norm):
        return over_time(norm, x)
    return (_with_hooks if by_itself else _normalised)(x, norm, num_steps)


def _normalised(x: Tensor, norm: Norm, num_steps: int | None) -> Tensor:
    """BN(x) by the statistics of the batch."""
    if _spans_ranks(norm):
        shared = over_ranks(x, *_affine(norm, x), norm.eps, _group(norm))
        statistics = (shared.mean, shared.variance, shared.weight, shared.bias)
        y = functional.batch_norm(fold_time(shared.x), *statistics, training=False, eps=norm.eps)
        _update_running(norm, shared.mean, shared.variance, shared.count * _repeats(x, num_steps))
        return unfold_time(y, x)
    count = _count(x, num_steps)
    y, mean, rstd = torch.native_batch_norm(fold_time(x), norm.weight, norm.bias, None, None, True, 0.0, norm.eps)
    _update_running(norm, mean, rstd**-2 - norm.eps, count)
    return unfold_time(y, x)


def _with_hooks(x: Tensor, norm: Norm, num_steps: int | None) -> Tensor:
    """The norm called with its hooks on [T B, C, H, W]; meanwhile its forward is `_normalised`."""

    def forward(y: Tensor) -> Tensor:
        return fold_time(_normalised(unfold_time(y, x), norm, num_steps))

    return over_time(lambda y: call_with(norm, forward, y), x)


def norm_neuron(
    x: Tensor,
    norm: nn.Module,
    neuron: Neuron | MultiLIF,
    num_steps: int | None = None,
    added: Tensor | None = None,
    *,
    adds_first: bool = False,
) -> Tensor:
    """neuron(BN(x)) + added, or with `adds_first` neuron(BN(x) + added): [T, B, C, H, W], through the fused op.

    Several thresholds are those of a MultiLIF that sums. Updates the running statistics in training mode.
    """
    if not _in_one_op(norm, neuron):
        return fire(batch_norm(x, norm, num_steps), neuron, num_steps, added, adds_first=adds_first)
    op = norm_lif_with(added, adds_first=adds_first)
    if isinstance(neuron, MultiLIF):
        op, neuron = partial(op, thresholds=neuron.thresholds), neuron.neuron
    return _fused(op, x, norm, neuron, num_steps)


def is_frozen(norm: nn.Module) -> bool:
    """Whether it is a batch norm of fixed statistics, weight and bias, which are its buffers."""
    return type(norm).__name__ == FROZEN_NORM and {"weight", "bias", "running_mean", "running_var"} <= {*norm._buffers}


def fuses(neuron: nn.Module | None) -> bool:
    """Whether norm_neuron serves that neuron, or block in the place of one."""
    return isinstance(neuron, Neuron) or (isinstance(neuron, MultiLIF) and neuron.combine == "sum")


def norm_lif_with(added: Tensor | None, *, adds_first: bool) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """norm_lif that takes the shortcut in, behind the neuron or with `adds_first` in front of it."""
    return partial(norm_lif, residual=added) if adds_first else partial(norm_lif, added=added)


def fire(
    x: Tensor, neuron: nn.Module | None, num_steps: int | None, added: Tensor | None, *, adds_first: bool
) -> Tensor:
    """neuron(x) + added, or with `adds_first` neuron(x + added); without a neuron x + added."""
    if adds_first and added is not None:
        x, added = x + added, None
    x = x if neuron is None else neuron(x, num_steps)
    return x if added is None else x + added


def norm_pool_neuron(x: Tensor, norm: nn.Module, neuron: Neuron, num_steps: int | None = None) -> Tensor:
    """As norm_neuron with `max_pool` between norm and neuron: [T, B, C, H / 2, W / 2], rounded up."""
    if not _in_one_op(norm, neuron):
        return neuron(over_time(max_pool, batch_norm(x, norm, num_steps)), num_steps)
    return _fused(norm_pool_lif, x, norm, neuron, num_steps)


def max_pool(x: Tensor) -> Tensor:
    """The pool that norm_pool_neuron fuses: 3x3, stride 2. x: [N, C, H, W] -> [N, C, H / 2, W / 2], rounded up."""
    return functional.max_pool2d(x, 3, stride=2, padding=1)


def _fused(
    op: Callable[..., tuple[Tensor, Tensor, Tensor]],
    x: Tensor,
    norm: Any,
    neuron: Neuron,
    num_steps: int | None,
) -> Tensor:
    affine = _affine(norm, x)
    dynamics, settings = neuron.dynamics(), {"num_steps": num_steps, "eps": norm.eps}
    if not _needs_batch_statistics(norm):
        given = {"mean": norm.running_mean, "variance": norm.running_var}
        return op(x, *affine, dynamics, **given, **settings)[0]
    if _spans_ranks(norm):
        shared = over_ranks(x, *affine, norm.eps, _group(norm))
        given = {"mean": shared.mean, "variance": shared.variance}
        y, mean, variance = op(shared.x, shared.weight, shared.bias, dynamics, **given, **settings)
        count: int | Tensor = shared.count * _repeats(x, num_steps)
    else:
        count = _count(x, num_steps)
        y, mean, variance = op(x, *affine, dynamics, **settings)
    _update_running(norm, mean, variance, count)
    return y


def _in_one_op(norm: nn.Module, neuron: nn.Module) -> bool:
    """Whether the fused op may stand in for both."""
    if not isinstance(norm, FUSED_NORMS) or runs_by_itself(norm) or runs_by_itself(neuron):
        return False
    return not (isinstance(neuron, MultiLIF) and runs_by_itself(neuron.neuron))


def _affine(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias; ones and zeros for a norm without."""
    if norm.weight is not None and norm.bias is not None:
        return norm.weight, norm.bias
    ones = torch.ones(x.shape[2], device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    return (
        ones if norm.weight is None else norm.weight,
        torch.zeros_like(ones) if norm.bias is None else norm.bias,
    )


def _spans_ranks(norm: Norm) -> bool:
    return isinstance(norm, SyncBatchNorm2d | nn.SyncBatchNorm) and norm.training and has_ranks()


def _group(norm: Norm) -> "dist.ProcessGroup | None":
    """The ranks that share statistics; None for all."""
    return norm.process_group if isinstance(norm, nn.SyncBatchNorm) else None


def _needs_batch_statistics(norm: Norm) -> bool:
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
def _update_running(norm: Norm, mean: Tensor, variance: Tensor, count: int | Tensor) -> None:
    """Moves the running statistics towards a batch of `count` values a channel (its biased variance made unbiased)."""
    if not norm.training or norm.running_mean is None or _frozen.get():
        return
    assert norm.running_var is not None and norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    weight = float(1 / norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), weight)
    norm.running_var.lerp_((variance * (count / (count - 1))).to(norm.running_var.dtype), weight)
