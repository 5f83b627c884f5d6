"""Batch norm, optional residual and LIF in one op: the conv output is read once and spikes are written once."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spimm.kernels import dispatch
from spimm.kernels.cpu import unsupported as cpu_unsupported
from spimm.kernels.door import check_tensors
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import steps_of
from spimm.kernels.multi_lif import check_thresholds, multi_lif
from spimm.kernels.norm_lif import cpu, reference
from spimm.kernels.triton import implement
from spimm.kernels.triton import unsupported as triton_unsupported


def norm_lif(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    residual: Tensor | None = None,
    added: Tensor | None = None,
    thresholds: Sequence[float] | None = None,
    num_steps: int | None = None,
    eps: float = 1e-5,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """LIF(BN(x) + residual) + added, and the mean and biased variance that BN used, in float32 (float64 for float64 x).

    x: [T, B, C, ...], or [1, B, C, ...] with `num_steps` for an input shared by all steps -> [T, B, C, ...], [C], [C].
    weight, bias: [C]. mean, variance: [C], both for given statistics (eval mode) or neither for those of the batch.
    residual: [T, B, C, ...], added to the normalised input in front of the neuron. added: [T, B, C, ...], added to the
    spikes behind it. thresholds: the sum of LIFs with these thresholds in place of the one (see multi_lif). Raises
    ValueError for shapes that do not fit, and as multi_lif for the thresholds. Gradients flow to every tensor but the
    statistics.
    """
    check_tensors({"x": x}, {"added": added})
    dynamics.check(x)
    num_steps = checked_steps(x, weight, bias, mean, variance, residual, num_steps)
    if added is not None and added.shape != (num_steps, *x.shape[1:]):
        raise ValueError(f"added has shape {tuple(added.shape)}; wanted {(num_steps, *x.shape[1:])}")
    if thresholds is not None:
        check_thresholds(thresholds)
    tensors = x, weight, bias, dynamics, mean, variance, residual, added, thresholds
    return dispatch.call("norm_lif", backend, *tensors, num_steps=num_steps, eps=eps)


def norm_lif_membrane(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    dynamics: Dynamics,
    *,
    mean: Tensor | None = None,
    variance: Tensor | None = None,
    residual: Tensor | None = None,
    num_steps: int | None = None,
    eps: float = 1e-5,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The membrane BN(x) + residual, its spikes LIF(membrane), and the mean and biased variance that BN used.

    The membrane has the dtype of x, and the spikes are those of the membrane as stored. Shapes, arguments and errors as
    `norm_lif`; gradients flow from both.
    """
    num_steps = checked_steps(x, weight, bias, mean, variance, residual, num_steps)
    dynamics.check(x)
    return dispatch.call(
        "norm_lif_membrane", backend, x, weight, bias, dynamics, mean, variance, residual, num_steps=num_steps, eps=eps
    )


def checked_steps(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, residual: Tensor | None,
    num_steps: int | None,
) -> int:  # fmt: skip
    """The number of time steps of a call whose tensors fit."""
    check_tensors({"x": x, "weight": weight, "bias": bias}, {"mean": mean, "variance": variance, "residual": residual})
    num_steps = steps_of(x, num_steps)
    if x.dim() < 3:
        raise ValueError(f"x has shape {tuple(x.shape)}; wanted [T, B, C, ...]")
    if x.numel() == 0 and mean is None:
        raise ValueError(f"x of shape {tuple(x.shape)} is empty; statistics of the batch need values")
    for name, tensor in (("weight", weight), ("bias", bias), ("mean", mean), ("variance", variance)):
        if tensor is not None and tensor.shape != (x.shape[2],):
            raise ValueError(
                f"{name} has shape {tuple(tensor.shape)}; x of shape {tuple(x.shape)} needs ({x.shape[2]},)"
            )
    if (mean is None) != (variance is None):
        raise ValueError("give both mean and variance, or neither")
    if residual is not None and residual.shape != (num_steps, *x.shape[1:]):
        raise ValueError(f"residual has shape {tuple(residual.shape)}; wanted {(num_steps, *x.shape[1:])}")
    return num_steps


def _reference(
    x: Tensor, weight: Tensor, bias: Tensor, dynamics: Dynamics, mean: Tensor | None, variance: Tensor | None,
    residual: Tensor | None, added: Tensor | None, thresholds: Sequence[float] | None, *, num_steps: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    compute = torch.promote_types(x.dtype, torch.float32)
    out, mean, variance = reference.norm_lif(
        x.to(compute), weight.to(compute), bias.to(compute), dynamics, mean, variance,
        None if residual is None else residual.to(compute), None if added is None else added.to(compute),
        thresholds, num_steps=num_steps, eps=eps,
    )  # fmt: skip
    return out.to(x.dtype), mean, variance


def _reference_membrane(
    x: Tensor, weight: Tensor, bias: Tensor, dynamics: Dynamics, mean: Tensor | None, variance: Tensor | None,
    residual: Tensor | None, *, num_steps: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    compute = torch.promote_types(x.dtype, torch.float32)
    membrane, spikes, mean, variance = reference.norm_lif_membrane(
        x.to(compute), weight.to(compute), bias.to(compute), dynamics, mean, variance,
        None if residual is None else residual.to(compute), num_steps=num_steps, eps=eps, dtype=x.dtype,
    )  # fmt: skip
    return membrane.to(x.dtype), spikes.to(x.dtype), mean, variance


def _in_parts(
    x: Tensor, weight: Tensor, bias: Tensor, dynamics: Dynamics, mean: Tensor | None, variance: Tensor | None,
    residual: Tensor | None, added: Tensor | None, thresholds: Sequence[float] | None, *, num_steps: int, eps: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The membrane in plain torch, then the op of several thresholds."""
    assert thresholds is not None
    compute = torch.promote_types(x.dtype, torch.float32)
    numbers = (None if part is None else part.to(compute) for part in (x, weight, bias, mean, variance, residual))
    z, mean, variance = reference.membrane(*numbers, eps=eps)  # type: ignore[arg-type]
    spikes = multi_lif(z.to(x.dtype), dynamics, thresholds, num_steps=num_steps)
    return spikes if added is None else spikes + added, mean, variance


def _triton_unsupported(*call: Any, **settings: Any) -> str | None:
    return triton_unsupported(*call, **settings) if call[-1] is None else "it knows one threshold"


def _parts_unsupported(*call: Any, **_: Any) -> str | None:
    return "it is for several thresholds" if call[-1] is None else None


implement("norm_lif", "norm_lif", "norm_lif_membrane", "norm_lif_backward")
dispatch.register("norm_lif", "cpu", cpu.norm_lif, cpu_unsupported)
dispatch.register("norm_lif", "triton", cpu.norm_lif, _triton_unsupported, device="cuda")
dispatch.register("norm_lif", "parts", _in_parts, _parts_unsupported, device="cuda")
dispatch.register("norm_lif", "reference", _reference, lambda *_, **__: None)
dispatch.register("norm_lif_membrane", "cpu", cpu.norm_lif_membrane, cpu_unsupported)
dispatch.register("norm_lif_membrane", "triton", cpu.norm_lif_membrane, triton_unsupported, device="cuda")
dispatch.register("norm_lif_membrane", "reference", _reference_membrane, lambda *_, **__: None)
