"""Batch norm's statistics over the batches of all ranks, for any op that takes statistics as given.

An op with given statistics treats them as constants. `over_ranks` hands it the parameters through an identity whose
backward adds what is missing, from the gradients of weight and bias that the op computes anyway: one all-gather of the
moments forward, one all-reduce of 2 C sums backward, and every backend of the op as it is.
"""

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from spimm.kernels import second


class Shared(NamedTuple):
    """What goes into an op with given statistics: its input and affine parameters, and the statistics of all ranks."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor
    """Biased."""
    count: Tensor
    """Values a channel on all ranks, a scalar."""


def has_ranks() -> bool:
    """Whether there is a process group of more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def over_ranks(x: Tensor, weight: Tensor, bias: Tensor, eps: float, group: "dist.ProcessGroup | None" = None) -> Shared:
    """BN's arguments with the moments of all ranks' x: [T, B, C, ...]; weight, bias: [C].

    The gradients of the op's results are then those of batch statistics: of the sum of all ranks' losses with respect
    to x, and each rank's share of it with respect to weight and bias. Every rank of the group calls this, in the same
    order; None is the group of all.
    """
    mean, variance, count = _moments(x, group)
    through = _ThroughStatistics.apply(x, weight, bias, mean, (variance + eps).rsqrt(), count, group)
    return Shared(*through, mean, variance, count)  # type: ignore[misc]


@torch.no_grad()
def _moments(x: Tensor, group: "dist.ProcessGroup | None") -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance of all ranks, [C], and the values behind them, in float32 or wider (Chan et al.)."""
    channels = x.shape[2]
    values = x.to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(values, _all_but_channels(x), correction=0)
    own = torch.cat((mean, variance, mean.new_full((1,), x.numel() // channels)))
    ranks = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(ranks, own, group=group)
    means, variances, counts = torch.stack(ranks).split((channels, channels, 1), dim=1)  # [ranks, C], [ranks, 1]
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean) ** 2)).sum(0) / count
    return mean, variance, count


class _ThroughStatistics(torch.autograd.Function):
    """Identity; in backward the gradient that x receives through mean and variance is added to that of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, rstd: Tensor, count: Tensor, group: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.group = group
        ctx.save_for_backward(x, weight, mean, rstd, count)
        return x.view_as(x), weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad_x: Tensor, grad_weight: Tensor, grad_bias: Tensor
    ) -> tuple[Tensor | None, ...]:
        if second.wanted():
            raise RuntimeError(
                "batch norm over ranks has no second derivatives; create_graph=True needs a model without sync_norms"
            )
        x, weight, mean, rstd, count = ctx.saved_tensors
        sums = torch.stack((grad_bias, grad_weight)).to(mean.dtype)
        dist.all_reduce(sums, group=ctx.group)
        scale = weight.to(mean.dtype) * rstd / count
        shape = [1, 1, -1] + [1] * (x.dim() - 3)
        offset, slope = ((scale * part).view(shape) for part in (sums[0], sums[1] * rstd))
        centred = x.to(mean.dtype) - mean.view(shape)
        corrected = grad_x.to(mean.dtype) - (offset + slope * centred)
        return corrected.to(x.dtype), grad_weight, grad_bias, None, None, None, None


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 2]
