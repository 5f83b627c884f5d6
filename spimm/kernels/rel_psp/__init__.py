"""Spike times of neurons with linear postsynaptic potentials and a dynamic firing threshold, in closed form."""

import math

from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.rel_psp import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported


def rel_psp(
    drive: Tensor,
    *,
    window: float = 1.0,
    pool: int = 1,
    closed: bool = True,
    clip: float = math.inf,
    backend: str = "auto",
) -> Tensor:
    """When each neuron fires, if it does: Wei et al. 2023 (DTA-TTFS), Eq. 7, with the gradients of Eqs. 9 and 10.

    drive: [2, ...], the potential where the window starts and the sum of the weights of all inputs that fired. Returns
    [2, ...]: what is left of the window when the neuron fires, `window` - t, 0 where it is silent; and 1 where it
    fired, else 0, which has no gradient. `pool`: the earliest spike of each square of so many pixels a side, [2, B, C,
    H, W] -> [2, B, C, H // pool, W // pool]. `closed`: a potential of exactly 0 where the window ends meets the
    threshold, as all neurons without any input have it. `clip`: largest dt/dI and dt/dW, I = sum of w t.
    Raises ValueError for another shape, and for a window, pool or clip that is not positive.
    """
    check_tensors({"drive": drive})
    planes = drive.shape[0] if drive.dim() else 0
    if planes != 2 or (pool != 1 and drive.dim() != 5):
        wanted = "[2, ...]" if pool == 1 else "[2, B, C, H, W] with a pool"
        raise ValueError(f"drive has shape {tuple(drive.shape)}; wanted {wanted}")
    for label, value in (("window", window), ("pool", pool), ("clip", clip)):
        if not value > 0:
            raise ValueError(f"{label} is {value}; wanted more than 0")
    if pool > 1 and pool > min(drive.shape[-2:]):
        raise ValueError(f"pool is {pool}; expected at most the sides of drive, {tuple(drive.shape[-2:])}")
    return dispatch.call("rel_psp", backend, drive, window, pool, closed, clip)


dispatch.register("rel_psp", "cpu", cpu.rel_psp, cpu_unsupported)
implement("rel_psp", "rel_psp", "rel_psp_backward")
dispatch.register("rel_psp", "triton", cpu.rel_psp, triton_unsupported, device="cuda")
dispatch.register("rel_psp", "reference", reference.rel_psp, lambda *_: None)
