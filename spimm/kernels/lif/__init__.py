"""LIF over [T, ...]: charge, fire, reset. IF, LIF (with and without input decay) and PLIF are settings of it."""

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported


def lif(
    x: Tensor,
    dynamics: Dynamics,
    v: Tensor | None = None,
    *,
    num_steps: int | None = None,
    keep_v: bool = True,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Spikes (0 or 1, dtype of x) and the potential after the last step, or an empty tensor without `keep_v`.

    x: [T, ...] -> [T, ...], [...]; or [1, ...] with `num_steps`: the same input at every step, not repeated in memory.
    v: [...] starts the potential; rest by default. Gradients flow to x, v and the tensors in `dynamics`.
    Raises ValueError for T < 1, a `num_steps` that x does not have, or a `v` of another shape.
    """
    check_tensors({"x": x}, {"v": v})
    dynamics.check(x)
    num_steps = steps_of(x, num_steps)
    if v is not None and v.shape != x.shape[1:]:
        raise ValueError(f"v has shape {tuple(v.shape)}; x of shape {tuple(x.shape)} needs {tuple(x.shape[1:])}")
    return dispatch.call("lif", backend, x, dynamics, v, num_steps=num_steps, keep_v=keep_v)


def steps_of(x: Tensor, num_steps: int | None) -> int:
    """The number of time steps of a call, checked against x: [T or 1, ...]."""
    found = len(x) if x.dim() else 0
    steps = found if num_steps is None else num_steps
    if steps < 1 or found not in (1, steps):
        raise ValueError(
            f"x has shape {tuple(x.shape)} and num_steps is {num_steps}; wanted [T, ...] or [1, ...], T >= 1"
        )
    return steps


def _reference(
    x: Tensor, dynamics: Dynamics, v: Tensor | None, *, num_steps: int, keep_v: bool
) -> tuple[Tensor, Tensor]:
    compute = torch.promote_types(x.dtype, torch.float32)
    spikes, v_end = reference.lif(x.to(compute), dynamics, None if v is None else v.to(compute), num_steps=num_steps)
    return spikes.to(x.dtype), v_end.to(x.dtype) if keep_v else x.new_empty(0)


dispatch.register("lif", "cpu", cpu.lif, cpu_unsupported)
implement("lif", "lif", "lif_backward")
dispatch.register("lif", "triton", cpu.lif, triton_unsupported, device="cuda")
dispatch.register("lif", "reference", _reference, lambda *_, **__: None)
