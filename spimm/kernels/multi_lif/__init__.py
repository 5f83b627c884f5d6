"""Several LIFs that differ in their thresholds, from one read of the input: spikes with more than one level."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import steps_of
from spimm.kernels.multi_lif import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported

MAX_THRESHOLDS = 8


def multi_lif(
    x: Tensor,
    dynamics: Dynamics,
    thresholds: Sequence[float] | Tensor,
    *,
    num_steps: int | None = None,
    combine: Literal["sum", "concat"] = "sum",
    backend: str = "auto",
) -> Tensor:
    """Spikes of n LIFs with these thresholds, each with a potential of its own; `dynamics.threshold` is ignored.

    x: [T, B, C, ...], or [1, B, C, ...] with `num_steps` for an input shared by all steps. "sum" -> [T, B, C, ...], the
    number of LIFs that fire, 0..n; "concat" -> [T, B, n C, ...], branch after branch. Gradients flow to x, to
    `thresholds` (if a tensor, [n]) and to the decay and gain in `dynamics`.
    Raises ValueError for a `combine` of another name, n outside 1..8, and x that has no channels or not `num_steps`.
    """
    check_tensors({"x": x}, {"thresholds": thresholds if isinstance(thresholds, Tensor) else None})
    dynamics.check(x)
    num_steps = steps_of(x, num_steps)
    if x.dim() < 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted [T, B, C, ...]")
    if combine not in ("sum", "concat"):
        raise ValueError(f"combine is {combine!r}; wanted 'sum' or 'concat'")
    check_thresholds(thresholds)
    return dispatch.call("multi_lif", backend, x, dynamics, thresholds, num_steps=num_steps, combine=combine)


def check_thresholds(thresholds: Sequence[float] | Tensor) -> None:
    """Raises ValueError unless there are 1 to 8, in a row."""
    if isinstance(thresholds, Tensor) and thresholds.dim() != 1:
        raise ValueError(f"thresholds have shape {tuple(thresholds.shape)}; wanted [n]")
    if not 1 <= len(thresholds) <= MAX_THRESHOLDS:
        raise ValueError(f"there are {len(thresholds)} thresholds; wanted 1 to {MAX_THRESHOLDS}")


def _reference(
    x: Tensor, dynamics: Dynamics, thresholds: Sequence[float] | Tensor, *, num_steps: int, combine: str
) -> Tensor:
    compute = torch.promote_types(x.dtype, torch.float32)
    spikes = reference.multi_lif(x.to(compute), dynamics, thresholds, num_steps=num_steps, combine=combine)
    return spikes.to(x.dtype)


dispatch.register("multi_lif", "cpu", cpu.multi_lif, cpu_unsupported)
implement("multi_lif", "multi_lif", "multi_lif_backward")
dispatch.register("multi_lif", "triton", cpu.multi_lif, triton_unsupported, device="cuda")
dispatch.register("multi_lif", "reference", _reference, lambda *_, **__: None)
