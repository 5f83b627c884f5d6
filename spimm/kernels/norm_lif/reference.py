"""Batch normalisation, residual and LIF in plain torch: the truth that every backend is tested against."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.multi_lif.reference import multi_lif


def membrane(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    *,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """weight (x - mean) / sqrt(variance + eps) + bias + residual, and the mean and biased variance used.

    x: [T or 1, B, C, ...] -> same or residual's, [C], [C]. Without `mean` and `variance` those of the batch are taken
    over every dimension but C, time included: one input shared by all steps has the same ones.
    """
    dims = [d for d in range(x.dim()) if d != 2]
    if mean is None or variance is None:
        variance, mean = torch.var_mean(x, dims, correction=0)
    shape = [1, 1, -1] + [1] * (x.dim() - 3)
    scale = weight * torch.rsqrt(variance + eps)
    z = (x - mean.view(shape).to(x.dtype)) * scale.view(shape).to(x.dtype) + bias.view(shape).to(x.dtype)
    return z if residual is None else z + residual, mean.detach(), variance.detach()


def norm_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    added: Tensor | None = None,
    thresholds: Sequence[float] | None = None,
    *,
    num_steps: int,
    eps: float,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """LIF(membrane) + added, and the mean and variance used. x: [T or 1, B, C, ...] -> [T, B, C, ...], [C], [C].

    With `thresholds` the sum of the LIFs that have these.
    """
    z, mean, variance = membrane(x, weight, bias, mean, variance, residual, eps=eps)
    if thresholds is None:
        spikes, _ = lif_reference.lif(z, dynamics, num_steps=num_steps, fire=fire)
    else:
        spikes = multi_lif(z, dynamics, thresholds, num_steps=num_steps, combine="sum", fire=fire)
    return spikes if added is None else spikes + added, mean, variance


def norm_lif_membrane(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    residual: Tensor | None,
    *,
    num_steps: int,
    eps: float,
    dtype: torch.dtype | None = None,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The membrane rounded to `dtype` (gradients pass unchanged), its LIF, and the mean and variance used.

    x: [T or 1, B, C, ...] -> [T, B, C, ...], [T, B, C, ...], [C], [C].
    """
    z, mean, variance = membrane(x, weight, bias, mean, variance, residual, eps=eps)
    z = z.expand(num_steps, *z.shape[1:])
    z = z + (z.to(dtype or z.dtype).to(z.dtype) - z).detach()
    spikes, _ = lif_reference.lif(z, dynamics, num_steps=num_steps, fire=fire)
    return z, spikes, mean, variance
