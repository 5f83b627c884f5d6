"""LIF through the compiled extension: fp32 or bf16 storage, fp32 arithmetic, any dense layout with time outermost."""

import functools

import torch
from torch import Tensor

from spimm.kernels import second
from spimm.kernels.cpu import (
    NO_NORM,
    NO_THRESHOLDS,
    STORAGE,
    NeuronCode,
    channels_last,
    empty_steps,
    extension,
    num_threads,
)
from spimm.kernels.door import NOTHING, Layout
from spimm.kernels.dynamics import Dynamics
from spimm.kernels.lif import reference

_library = torch.library.Library("spimm", "FRAGMENT")
_library.define(
    f"lif(Tensor x, Tensor? v, Tensor coefficients, int num_steps, bool keep_v, {NeuronCode.SCHEMA}) "
    "-> (Tensor, Tensor)"
)
_library.define(
    "lif_backward(Tensor grad_spikes, Tensor? grad_v, Tensor x, Tensor? v, Tensor coefficients, bool learns, "
    f"{NeuronCode.SCHEMA}) -> (Tensor, Tensor, Tensor)"
)


def lif(x: Tensor, dynamics: Dynamics, v: Tensor | None, *, num_steps: int, keep_v: bool) -> tuple[Tensor, Tensor]:
    """As reference.lif."""
    repeated = not x.stride(0) and not (torch.is_grad_enabled() and x.requires_grad)
    x = _dense_steps(x[:1] if repeated else x)  # of an expanded input one step is read; each has its own gradient
    if v is not None:
        v = _like_step(v.to(x.dtype) - dynamics.rest, x)
    spikes, v_end = torch.ops.spimm.lif(x, v, dynamics.coefficients(), num_steps, keep_v, *NeuronCode.of(dynamics))
    return spikes, v_end + dynamics.rest if keep_v and dynamics.rest else v_end


def _dense_steps(x: Tensor) -> Tensor:
    """x itself if it is contiguous or channels-last, step after step, else a copy in the memory order of its steps."""
    if x.is_contiguous():
        return x
    return channels_last(x) if x.dim() > 3 and x[0].movedim(1, -1).is_contiguous() else x.contiguous()


def _like_step(v: Tensor, x: Tensor) -> Tensor:
    return v if v.stride() == x[0].stride() else torch.empty_strided(v.shape, x[0].stride(), dtype=v.dtype).copy_(v)


def _extent(x: Tensor, num_steps: int) -> tuple[int, int, int, bool]:
    return num_steps, x[0].numel(), 1, len(x) != num_steps


def _layouts(x: Tensor, num_steps: int) -> tuple[Layout, Layout, Layout]:
    """Of x, of all steps and of one: contiguous or channels-last, as x is."""
    return _layouts_of(x.dtype, x.shape, num_steps, -1 if x.is_contiguous() or x.dim() < 4 else 2)


@functools.lru_cache(maxsize=1024)
def _layouts_of(dtype: torch.dtype, shape: torch.Size, num_steps: int, last: int) -> tuple[Layout, Layout, Layout]:
    step = shape[1:]
    steps = Layout.of(dtype, (num_steps, *step), last)
    return Layout.of(dtype, shape, last), steps, Layout.of(dtype, step, min(last, 1))


@torch.library.impl(_library, "lif", "CPU")
def _forward(
    x: Tensor, v: Tensor | None, coefficients: Tensor, num_steps: int, keep_v: bool, *code: int
) -> tuple[Tensor, Tensor]:
    spikes, v_end = _forward_fake(x, v, coefficients, num_steps, keep_v, *code)
    given, steps, step = _layouts(x, num_steps)
    extension().lif_forward(
        STORAGE[x.dtype], (*coefficients.tolist(), *code), _extent(x, num_steps), NO_NORM, num_threads(),
        given.address("x", x), NOTHING, NOTHING, step.address("v", v), steps.address("spikes", spikes),
        step.address("v_end", v_end if keep_v else None), NOTHING, *NO_THRESHOLDS,
    )  # fmt: skip
    return spikes, v_end


@torch.library.register_fake("spimm::lif", lib=_library)
def _forward_fake(
    x: Tensor, v: Tensor | None, coefficients: Tensor, num_steps: int, keep_v: bool, *code: int
) -> tuple[Tensor, Tensor]:
    return empty_steps(x, num_steps), torch.empty_like(x[0]) if keep_v else x.new_empty(0)


@torch.library.impl(_library, "lif_backward", "CPU")
def _backward(
    grad_spikes: Tensor, grad_v: Tensor | None, x: Tensor, v: Tensor | None, coefficients: Tensor, learns: bool,
    *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    num_steps = len(grad_spikes)
    spikes_like = x if len(x) == num_steps else empty_steps(x, num_steps)
    if grad_spikes.stride() != spikes_like.stride():
        grad_spikes = empty_steps(x, num_steps).copy_(grad_spikes)
    if grad_v is not None:
        grad_v = _like_step(grad_v, x)
    grad_x, grad_v0, grad_coefficients = _backward_fake(grad_spikes, grad_v, x, v, coefficients, learns, *code)
    given, steps, step = _layouts(x, num_steps)
    learnt = Layout.like(coefficients)
    extension().lif_backward(
        STORAGE[x.dtype], (*coefficients.tolist(), *code), _extent(x, num_steps), NO_NORM, num_threads(),
        given.address("x", x), NOTHING, NOTHING, step.address("v", v), steps.address("grad_spikes", grad_spikes),
        step.address("grad_v", grad_v), NOTHING, given.address("grad_x", grad_x), NOTHING,
        step.address("grad_v0", None if v is None else grad_v0), NOTHING, NOTHING,
        learnt.address("grad_coefficients", grad_coefficients if learns else None), *NO_THRESHOLDS,
    )  # fmt: skip
    return grad_x, grad_v0, grad_coefficients


@torch.library.register_fake("spimm::lif_backward", lib=_library)
def _backward_fake(
    grad_spikes: Tensor, grad_v: Tensor | None, x: Tensor, v: Tensor | None, coefficients: Tensor, learns: bool,
    *code: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Empty gradients: none of v where there is no v, none of the coefficients where they are not learnt."""
    grad_v0 = x.new_empty(0) if v is None else torch.empty_like(v)
    return torch.empty_like(x), grad_v0, coefficients.new_empty(3 if learns else 0)


def _setup_context(ctx, inputs, output) -> None:
    x, v, coefficients, ctx.num_steps, ctx.keep_v, *ctx.code = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, v, coefficients)


def _autograd(ctx, grad_spikes: Tensor | None, grad_v: Tensor | None) -> tuple[Tensor | None, ...]:
    nothing: list[Tensor | None] = [None] * 10
    learns = ctx.needs_input_grad[2]
    grad_v = grad_v if ctx.keep_v else None
    if grad_spikes is None and grad_v is None:
        return tuple(nothing)
    if second.wanted():
        nothing[:3] = _differentiable(ctx, grad_spikes, grad_v)
        return tuple(nothing)
    x, v, coefficients = ctx.saved_tensors
    if grad_spikes is None:
        grad_spikes = empty_steps(x, ctx.num_steps).zero_()
    grad_x, grad_v0, grad_coefficients = torch.ops.spimm.lif_backward(
        grad_spikes, grad_v, x, v, coefficients, learns, *ctx.code
    )
    nothing[0] = grad_x
    if v is not None:
        nothing[1] = grad_v0
    if learns:
        nothing[2] = grad_coefficients
    return tuple(nothing)


def _differentiable(ctx, *grads: Tensor | None) -> list[Tensor | None]:
    """The gradients of x, v and coefficients by the reference."""

    def run(x: Tensor, v: Tensor | None, coefficients: Tensor) -> tuple[Tensor, Tensor]:
        dynamics = NeuronCode(*ctx.code).dynamics(coefficients)
        return reference.lif(x.float(), dynamics, None if v is None else v.float(), num_steps=ctx.num_steps)

    return second.gradients("lif", run, ctx.saved_tensors, ctx.needs_input_grad[:3], grads)


torch.library.register_autograd("spimm::lif", _autograd, setup_context=_setup_context, lib=_library)
