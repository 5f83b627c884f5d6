"""Charge, fire, reset in plain torch: the truth that every backend is tested against (Zhou et al. 2024, eq. 1-3)."""

from collections.abc import Callable

import torch
from torch import Tensor

from spimm.kernels.dynamics import Dynamics
from spimm.surrogate import spike


def lif(
    x: Tensor,
    dynamics: Dynamics,
    v: Tensor | None = None,
    *,
    num_steps: int,
    fire: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Spikes and last potential. x: [T, ...] or [1, ...] (the same at every step), v: [...] -> [T, ...], [...].

    `fire` maps u = h - threshold to spikes; by default a step with the surrogate's gradient. A smooth one makes the
    whole op differentiable in the ordinary sense.
    """
    decay, gain, threshold = dynamics.coefficients().to(x.device, x.dtype).unbind()
    fire = fire or (lambda u: spike(u, dynamics.surrogate))
    v = torch.zeros_like(x[0]) if v is None else v - dynamics.rest
    spikes = []
    for t in range(num_steps):
        h = decay * v + gain * x[t if len(x) > 1 else 0]
        s = fire(h - threshold)
        r = s.detach() if dynamics.detach_reset else s
        v = h - r * threshold if dynamics.soft_reset else (1 - r) * h
        spikes.append(s)
    return torch.stack(spikes), v + dynamics.rest
