"""Batch norm, 3x3 max-pool of stride 2 and LIF in one op: no normalised or pooled potential reaches memory."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.norm_lif import checked_steps
from spimm.kernels.norm_pool_lif import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported


def norm_pool_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    num_steps: int | None = None,
    eps: float = 1e-5,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Spikes LIF(MaxPool2d(3, stride 2, padding 1)(BN(x))), and the mean and biased variance that BN used.

    Both are those of x as it comes, before the pool, in float32 (float64 for float64 x).

    x: [T, B, C, H, W], or [1, ...] with `num_steps` for an input shared by all steps -> [T, B, C, H', W'], [C], [C],
    H' = ceil(H / 2), W' = ceil(W / 2). Arguments, errors and gradients as `norm_lif`; x of another rank or without
    space is a ValueError too.
    """
    check_tensors({"x": x})
    dynamics.check(x)
    if x.dim() != 5 or 0 in x.shape[3:]:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted [T, B, C, H, W] with at least one pixel")
    num_steps = checked_steps(x, weight, bias, mean, variance, None, num_steps)
    return dispatch.call(
        "norm_pool_lif", backend, x, weight, bias, dynamics, mean, variance, num_steps=num_steps, eps=eps
    )


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor, dynamics: Dynamics, mean: Tensor | None, variance: Tensor | None,
    *, num_steps: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    compute = torch.promote_types(x.dtype, torch.float32)
    spikes, mean, variance = reference.norm_pool_lif(
        x.to(compute), weight.to(compute), bias.to(compute), dynamics, mean, variance, num_steps=num_steps, eps=eps
    )
    return spikes.to(x.dtype), mean, variance


dispatch.register("norm_pool_lif", "cpu", cpu.norm_pool_lif, cpu_unsupported)
implement("norm_pool_lif", "norm_pool_lif", "norm_pool_lif_backward")
dispatch.register("norm_pool_lif", "triton", cpu.norm_pool_lif, triton_unsupported, device="cuda")
dispatch.register("norm_pool_lif", "reference", _reference, lambda *_, **__: None)
