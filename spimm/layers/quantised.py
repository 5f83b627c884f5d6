"""Weights of few bits: the quantiser, its straight-through gradient, and a model that computes with them.

Symmetric and uniform: with top = 2^(bits - 1) - 1 and the peak max |w|, a weight becomes scale q, with the scale
peak / top and the level q = round(w / scale), an integer in [-top, top]. Rounding is by at most scale / 2, zero stays
zero and the peak the peak, so quantising twice is quantising once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

Per = Literal["layer", "channel"]
"""What shares a scale: all weights of a layer, or those of one output channel."""
BITS = range(2, 9)


@dataclass(frozen=True, eq=False)
class QuantisedWeight:
    """A weight in levels."""

    levels: Tensor
    """int8, the weight's shape, output channels first."""
    peak: Tensor
    """max |w| in the weight's dtype, a scalar or one for each output channel."""
    bits: int

    @property
    def top(self) -> int:
        """The highest level."""
        return 2 ** (self.bits - 1) - 1

    @property
    def scale(self) -> Tensor:
        """The weight of level 1; float32 or more."""
        return self.peak.to(_computed(self.peak.dtype)) / self.top

    def dequantise(self) -> Tensor:
        """The weight, in the dtype of the peak: peak q / top, which is the peak itself where |q| is top."""
        return _scaled(self.levels.to(_computed(self.peak.dtype)), self.peak, self.top)


@torch.no_grad()
def to_levels(weight: Tensor, bits: int, per: Per = "layer") -> QuantisedWeight:
    """`weight` [out channels, ...] in levels of 2 to 8 bits. Raises ValueError for other bits and another `per`."""
    levels, peak, _ = _rounded(weight, bits, per)
    return QuantisedWeight(levels.to(torch.int8), peak, bits)


def check_quantiser(bits: int, per: str) -> None:
    """ValueError unless bits is 2 to 8 and `per` layer or channel."""
    if bits not in BITS:
        raise ValueError(f"bits is {bits}; wanted {BITS.start} to {BITS.stop - 1}")
    if per not in ("layer", "channel"):
        raise ValueError(f"per is {per!r}; wanted 'layer' or 'channel'")


def quantise_weight(weight: Tensor, bits: int, per: Per = "layer") -> Tensor:
    """What the levels of `weight` stand for, with the straight-through gradient: that of the result.

    No weight lies outside the levels, so the gradient passes everywhere (Bengio et al. 2013, Estimating or Propagating
    Gradients Through Stochastic Neurons).
    """
    return _StraightThrough.apply(weight, bits, per)  # type: ignore[return-value]


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bits: int, per: Per) -> Tensor:
        return _scaled(*_rounded(weight, bits, per))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad, None, None


@torch.no_grad()
def quantised_weights(model: nn.Module, bits: int = 4, per: Per = "layer") -> dict[str, QuantisedWeight]:
    """Levels and scales of all convolutions and linear layers, whatever their class, by key of the state dict.

    Biases, norms, thresholds and embeddings are left alone. Raises ValueError as `to_levels`, and for weights that are
    not finite, naming them.
    """
    check_quantiser(bits, per)
    weights = {}
    for key, layer in _layers(model).items():
        if not layer.weight.isfinite().all():
            raise ValueError(f"{key} is not finite; wanted numbers to quantise")
        weights[key] = to_levels(layer.weight, bits, per)
    return weights


@torch.no_grad()
def set_quantised(model: nn.Module, bits: int = 4, per: Per = "layer") -> None:
    """Fills the convolutions and linear layers of `model` with their quantised weights. Errors as above."""
    for key, weight in quantised_weights(model, bits, per).items():
        model.get_parameter(key).copy_(weight.dequantise())


@contextmanager
def quantised(model: nn.Module, bits: int | None, per: Per = "layer") -> Iterator[None]:
    """Within it the layers of `model` compute with quantised weights, and gradients reach the parameters straight.

    The parameters are as they were: state dict, optimiser and average see the weights that are trained. A backward pass
    belongs inside too, for parts that are computed again in it (`checkpointed`). bits None changes nothing.
    """
    if bits is None:
        yield
        return
    check_quantiser(bits, per)
    layers = set(_layers(model).values())
    try:
        for layer in layers:
            vars(layer)["weight"] = quantise_weight(layer.weight, bits, per)  # found before the parameter
        yield
    finally:
        for layer in layers:
            vars(layer).pop("weight", None)


def _layers(model: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
    """By key of the weight. ValueError for a weight that is computed from other parameters."""
    modules = model.named_modules(remove_duplicate=False)
    found = {name: module for name, module in modules if isinstance(module, nn.Conv2d | nn.Linear)}
    for name, module in found.items():
        if "weight" not in module._parameters:
            raise ValueError(
                f"the weight of {name!r} is computed (pruned or parametrised) and cannot be quantised;\nmake it "
                "permanent: torch.nn.utils.prune.remove, or torch.nn.utils.parametrize.remove_parametrizations"
            )
    return {f"{name}.weight" if name else "weight": module for name, module in found.items()}


def _rounded(weight: Tensor, bits: int, per: Per) -> tuple[Tensor, Tensor, int]:
    """Levels as floating-point numbers, in the weight's memory order; the peak; the highest level."""
    check_quantiser(bits, per)
    low, high = weight.aminmax() if per == "layer" else weight.flatten(1).aminmax(dim=1)
    peak, top = torch.maximum(-low, high), 2 ** (bits - 1) - 1
    exact = weight.to(_computed(weight.dtype))
    levels = torch.div(exact, _over(peak.masked_fill(peak == 0, 1), weight), out=torch.empty_like(exact))
    return levels.mul_(top).round_(), peak, top


def _scaled(levels: Tensor, peak: Tensor, top: int) -> Tensor:
    """peak q / top in the dtype of the peak; `levels` are overwritten."""
    return levels.div_(top).mul_(_over(peak, levels)).to(peak.dtype)


def _computed(dtype: torch.dtype) -> torch.dtype:
    """Levels of 8 bits are as fine as bfloat16."""
    return torch.promote_types(dtype, torch.float32)


def _over(peak: Tensor, weight: Tensor) -> Tensor:
    """A scalar, or [O] as [O, 1, ...]."""
    return peak if peak.ndim == 0 else peak.view(-1, *[1] * (weight.ndim - 1))
