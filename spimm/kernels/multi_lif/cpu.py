"""Several LIFs with one input through the compiled extension, channels-last; the backward recomputes the potentials."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from spimm.kernels.cpu import STORAGE, NeuronCode, channels_last, extension, num_threads
from spimm.kernels.dynamics import Dynamics

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(f"multi_lif(Tensor x, Tensor coefficients, int num_steps, bool concat, {NeuronCode.SCHEMA}) -> Tensor")
_library.define(
    "multi_lif_backward(Tensor grad_out, Tensor x, Tensor coefficients, int num_steps, bool concat, bool learns, "
    f"{NeuronCode.SCHEMA}) -> (Tensor, Tensor)"
)


def multi_lif(
    x: Tensor, dynamics: Dynamics, thresholds: Sequence[float] | Tensor, *, num_steps: int, combine: str
) -> Tensor:
    """As reference.multi_lif."""
    decay, gain, _ = replace(dynamics, threshold=0.0).coefficients()
    device = thresholds.device if isinstance(thresholds, Tensor) else decay.device
    from_rest = torch.as_tensor(thresholds, dtype=torch.float64, device=device) - dynamics.rest
    coefficients = torch.cat([torch.stack([decay, gain]).to(device), from_rest])
    concat = combine == "concat"
    return torch.ops.spimm.multi_lif(channels_last(x), coefficients, num_steps, concat, *NeuronCode.of(dynamics))


def _settings(
    x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, code: tuple[int, ...]
) -> tuple[tuple[object, ...], Tensor]:
    """The first arguments of the compiled functions, and the thresholds that they point to."""
    decay, gain = coefficients[:2].tolist()
    thresholds, channels = coefficients[2:].float(), x.shape[2]
    extent = (num_steps, x[0].numel() // max(1, channels), channels, len(x) != num_steps)
    neuron = (decay, gain, 0.0, *code)
    return (STORAGE[x.dtype], neuron, extent, num_threads(), thresholds.data_ptr(), len(thresholds), concat), thresholds


def _empty_out(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool) -> Tensor:
    channels = x.shape[2] * (len(coefficients) - 2 if concat else 1)
    return x.new_empty((num_steps, x.shape[1], *x.shape[3:], channels)).movedim(-1, 2)


@torch.library.impl(_library, "multi_lif", "CPU")
def _forward(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, *code: int) -> Tensor:
    settings, _thresholds = _settings(x, coefficients, num_steps, concat, code)
    out = _empty_out(x, coefficients, num_steps, concat)
    extension().multi_lif_forward(*settings, x.data_ptr(), out.data_ptr())
    return out


@torch.library.register_fake("spimm::multi_lif", lib=_library)
def _forward_fake(x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, *code: int) -> Tensor:
    return _empty_out(x, coefficients, num_steps, concat)


@torch.library.impl(_library, "multi_lif_backward", "CPU")
def _backward(
    grad_out: Tensor, x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    settings, _thresholds = _settings(x, coefficients, num_steps, concat, code)
    grad_out, grad_x = channels_last(grad_out), torch.empty_like(x)
    grad_coefficients = coefficients.new_empty(len(coefficients) if learns else 0)
    extension().multi_lif_backward(
        *settings, x.data_ptr(), grad_out.data_ptr(), grad_x.data_ptr(), grad_coefficients.data_ptr() if learns else 0
    )
    return grad_x, grad_coefficients


@torch.library.register_fake("spimm::multi_lif_backward", lib=_library)
def _backward_fake(
    grad_out: Tensor, x: Tensor, coefficients: Tensor, num_steps: int, concat: bool, learns: bool, *code: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), coefficients.new_empty(len(coefficients) if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    x, coefficients, *ctx.settings = inputs
    ctx.save_for_backward(x, coefficients)


def _autograd(ctx, grad_out: Tensor) -> tuple[Tensor | None, ...]:
    x, coefficients = ctx.saved_tensors
    num_steps, concat, *code = ctx.settings
    learns = ctx.needs_input_grad[1]
    grad_x, grad_coefficients = torch.ops.spimm.multi_lif_backward(
        grad_out, x, coefficients, num_steps, concat, learns, *code
    )
    return grad_x, grad_coefficients if learns else None, *[None] * 7


torch.library.register_autograd("spimm::multi_lif", _autograd, setup_context=_setup_context, lib=_library)
