"""The settings of a neuron as kernels take them: one small value for IF, LIF (with or without input decay) and PLIF."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from spimm.surrogate import Sigmoid, Surrogate

_CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Dynamics:
    """h = rest + decay (v - rest) + gain x;  s = [h >= threshold];  then reset.

    Hard reset: v = (1 - s) h + s v_reset, rest = v_reset. Soft reset (`v_reset=None`): v = h - s threshold, rest = 0.
    `detach_reset`: no gradient flows through the s of the reset. decay, gain and threshold are numbers, or tensors of
    one element where they are learnt.
    """

    decay: float | Tensor = 0.5
    gain: float | Tensor = 0.5
    threshold: float | Tensor = 1.0
    v_reset: float | None = 0.0
    detach_reset: bool = True
    surrogate: Surrogate = field(default_factory=Sigmoid)

    @property
    def soft_reset(self) -> bool:
        return self.v_reset is None

    @property
    def rest(self) -> float:
        """Potential before the first step."""
        return 0.0 if self.v_reset is None else self.v_reset

    def check(self, x: Tensor) -> None:
        """Raises ValueError for a tensor among decay, gain and threshold that is not one number, or not where x is.

        On the CPU they serve x on any device but meta.
        """
        for name, value in (("decay", self.decay), ("gain", self.gain), ("threshold", self.threshold)):
            if not isinstance(value, Tensor):
                continue
            if value.numel() != 1:
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected one element")
            if value.device not in (x.device, _CPU):
                raise ValueError(f"{name} is on {value.device}; expected {x.device}, where the input is")

    def coefficients(self, thresholds: Sequence[float] | Tensor | None = None) -> Tensor:
        """[decay, gain, threshold - rest] in float64, differentiable where a member is a tensor that requires grad.

        With `thresholds`, those of several neurons in place of the one: [decay, gain, threshold - rest, ...].
        """
        values = (self.decay, self.gain, self.threshold if thresholds is None else thresholds)
        if any(isinstance(value, Tensor) for value in values):
            device = next(value.device for value in values if isinstance(value, Tensor))
            parts = [torch.as_tensor(value, dtype=torch.float64, device=device).reshape(-1) for value in values]
            return torch.cat([*parts[:2], parts[2] - self.rest])
        fired_at = [self.threshold] if thresholds is None else thresholds
        return torch.tensor([self.decay, self.gain, *(at - self.rest for at in fired_at)], dtype=torch.float64)
