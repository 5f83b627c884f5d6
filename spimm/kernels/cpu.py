"""What the compiled CPU ops share: layout rules, settings of neurons, and the call of the extension."""

import importlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from spimm.kernels.door import Layout
from spimm.kernels.dynamics import Dynamics
from spimm.surrogate import of_code

NUM_SHAPES = 6  # of csrc/kernels.h
STORAGE = {torch.float32: 0, torch.bfloat16: 1}
NO_NORM = (0, 0, 0, 0, 0.0, False)  # for the ops that take a normalisation in front of the neuron
NO_THRESHOLDS = (0, 0)  # for those that take the thresholds of several neurons


def _load() -> tuple[Any, str | None]:
    try:
        return importlib.import_module("spimm.kernels._cpu"), None
    except ImportError as error:
        return None, f"the compiled extension could not be imported ({error}); reinstall spimm with a C++20 compiler"


_extension, _problem = _load()


def extension() -> Any:
    """The compiled module; `unsupported` tells beforehand whether there is one."""
    return _extension


def unsupported(x: Tensor, *settings: object, **_: object) -> str | None:
    """Why the compiled ops cannot serve a call, or None."""
    if x.device.type != "cpu":
        return f"it needs CPU tensors, x is on {x.device}"
    if x.dtype not in STORAGE:
        return f"it stores float32 or bfloat16, x is {str(x.dtype).removeprefix('torch.')}"
    for setting in settings:
        if isinstance(setting, Dynamics) and not 0 <= setting.surrogate.shape < NUM_SHAPES:
            return f"it does not know the shape {setting.surrogate.shape} of {setting.surrogate}"
    return _problem


class NeuronCode(NamedTuple):
    """The part of Dynamics that is not differentiated, as plain values that an op schema can carry."""

    soft_reset: bool
    detach_reset: bool
    shape: int
    surrogate_a: float
    surrogate_b: float

    @classmethod
    def of(cls, dynamics: Dynamics) -> "NeuronCode":
        return cls(
            dynamics.soft_reset,
            dynamics.detach_reset,
            dynamics.surrogate.shape,
            *map(float, dynamics.surrogate.parameters),
        )

    def dynamics(self, coefficients: Tensor) -> Dynamics:
        """The neuron with this code, its potentials measured from rest, and [decay, gain, threshold, ...]."""
        decay, gain, threshold = coefficients[:3]
        surrogate = of_code(self.shape, self.surrogate_a, self.surrogate_b)
        return Dynamics(decay, gain, threshold, None if self.soft_reset else 0.0, self.detach_reset, surrogate)

    SCHEMA = "bool soft_reset, bool detach_reset, int shape, float surrogate_a, float surrogate_b"


class Coefficients:
    """Decay, gain and threshold of one neuron, or decay, gain and several thresholds, as the extension takes them."""

    def __init__(self, coefficients: Tensor, code: tuple[int, ...]):
        decay, gain, *thresholds = coefficients.tolist()
        self.neuron = (decay, gain, thresholds[0], *code)
        self._several = torch.tensor(thresholds if len(thresholds) > 1 else [])

    @property
    def thresholds(self) -> tuple[int, int]:
        """Their address, good for as long as this object, and number; none where there is one."""
        number = len(self._several)
        return (Layout.like(self._several).address("thresholds", self._several), number) if number else NO_THRESHOLDS


def channels_last(x: Tensor, channel_dim: int = 2) -> Tensor:
    """x with the memory order (first dimensions, ..., channel); a view where it has that order already."""
    if is_regular(x, channel_dim):
        return x
    moved = x.movedim(channel_dim, -1).contiguous()
    return moved.flatten().view(moved.shape).movedim(-1, channel_dim)


def is_regular(x: Tensor, channel_dim: int) -> bool:
    """Whether x has the memory order of `channels_last` and its strides follow from its shape."""
    shape, strides = x.shape, x.stride()
    if strides[channel_dim] != 1:
        return False
    step = shape[channel_dim]
    for dim in range(len(shape) - 1, -1, -1):
        if dim != channel_dim:
            if strides[dim] != step:
                return False
            step *= shape[dim]
    return True


def regular(x: Tensor, channel_dim: int) -> Tensor:
    """A view of channels-last x whose strides follow from its shape at axes of size 1 too; any other x as it is.

    torch takes a tensor's memory order from strides, those of size 1 included: docs/upstream.md has what goes wrong.
    """
    if 1 not in x.shape or is_regular(x, channel_dim):
        return x
    moved = x.movedim(channel_dim, -1)
    return moved.flatten().view(moved.shape).movedim(-1, channel_dim) if moved.is_contiguous() else x


def empty_steps(x: Tensor, num_steps: int) -> Tensor:
    """An uninitialised [num_steps, ...] tensor whose steps are laid out in memory as x[0] is."""
    step = x[0]
    return x.new_empty_strided((num_steps, *step.shape), (step.numel(), *step.stride()))


def num_threads() -> int:
    return torch.get_num_threads()


def cpu_isa() -> str:
    """Instruction set of the compiled kernels in use (avx512, avx2 or baseline), or why there are none."""
    return _problem or _extension.isa()
