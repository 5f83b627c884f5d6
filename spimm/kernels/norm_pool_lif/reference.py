"""Batch norm, 3x3 max-pool of stride 2 and LIF in plain torch: the truth that every backend is tested against."""

from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import max_pool2d

from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference
from spimm.kernels.norm_lif.reference import membrane


def norm_pool_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    mean: Tensor | None,
    variance: Tensor | None,
    *,
    num_steps: int,
    eps: float,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """LIF(MaxPool(BN(x))), and the mean and variance used. x: [T or 1, B, C, H, W] -> [T, B, C, H', W'], [C], [C].

    H' = ceil(H / 2), W' = ceil(W / 2). The first maximum of a window, row by row, receives its gradient.
    """
    z, mean, variance = membrane(x, weight, bias, mean, variance, None, eps=eps)
    pooled = max_pool2d(z.flatten(0, 1), 3, stride=2, padding=1).unflatten(0, z.shape[:2])
    spikes, _ = lif_reference.lif(pooled, dynamics, num_steps=num_steps, fire=fire)
    return spikes, mean, variance
