"""Q-K masks in plain torch: the truth that every backend is tested against (Zhou et al. 2024 (QKFormer), eq. 4-7).

h heads of d = C / h channels; qk holds q's C channels and then k's.
"""

from collections.abc import Callable

from torch import Tensor

from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference as lif_reference


def token_mask(
    qk: Tensor, dynamics: Dynamics, num_heads: int, *, fire: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """mask = LIF(sum over d of q), out = mask k. qk: [T, B, 2C, H, W] -> out [T, B, C, H, W], mask [T, B, H, W, h]."""
    q, k = (x.movedim(2, -1).unflatten(-1, (num_heads, -1)) for x in qk.chunk(2, dim=2))  # [T, B, H, W, h, d]
    mask, _ = lif_reference.lif(q.sum(-1), dynamics, num_steps=len(qk), fire=fire)
    return (mask.unsqueeze(-1) * k).flatten(-2).movedim(-1, 2), mask.detach()


def channel_mask(
    qk: Tensor, dynamics: Dynamics, *, fire: Callable[[Tensor], Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """mask = LIF(sum over H, W of q), out = mask k. qk: [T, B, 2C, H, W] -> out [T, B, C, H, W], mask [T, B, C]."""
    q, k = qk.chunk(2, dim=2)
    mask, _ = lif_reference.lif(q.sum((-2, -1)), dynamics, num_steps=len(qk), fire=fire)
    return mask[..., None, None] * k, mask.detach()
