"""Several LIFs with one input in plain torch: the truth that every backend is tested against."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference


def multi_lif(
    x: Tensor,
    dynamics: Dynamics,
    thresholds: Sequence[float] | Tensor,
    *,
    num_steps: int,
    combine: str,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Spikes of one LIF for each threshold, added up or put behind each other along the channels.

    x: [T or 1, B, C, ...] -> [T, B, C, ...] with 0..n ("sum") or [T, B, n C, ...] with 0 and 1 ("concat").
    """
    branches = [
        lif_reference.lif(x, replace(dynamics, threshold=threshold), num_steps=num_steps, fire=fire)[0]
        for threshold in thresholds
    ]
    return torch.cat(branches, 2) if combine == "concat" else torch.stack(branches).sum(0)
