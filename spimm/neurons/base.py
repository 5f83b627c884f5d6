"""The contract of every neuron: a stateless multi-step forward, and `step` with the state passed by hand."""

import abc
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from spimm.kernels import Dynamics, lif
from spimm.neurons.by_itself import fusible, has_hooks, has_own_forward, say_once
from spimm.surrogate import Sigmoid, Surrogate


class SpikeOutput(NamedTuple):
    """What a neuron, or a block that takes its place, declares about its output."""

    kind: Literal["binary", "integer", "concatenated", "times", "real"]
    """0 and 1; 0..levels; 0 and 1 in `branches` times the channels; two planes of spike times (RelPSP); anything."""
    levels: int = 1
    """Highest value, of spikes."""
    branches: int = 1
    """Output channels for each input channel."""


BINARY = SpikeOutput("binary")


@fusible
class Neuron(nn.Module, abc.ABC):
    """Charge, fire, reset. Subclasses say only how the potential is charged (`charge`).

    threshold and v_reset are potentials in the units of the input; `v_reset=None` is the soft reset. The output is
    exactly 0 or 1 in the dtype of the input.
    """

    output = BINARY

    def __init__(
        self,
        *,
        threshold: float = 1.0,
        v_reset: float | None = 0.0,
        detach_reset: bool = True,
        surrogate: Surrogate | None = None,
        learn_threshold: bool = False,
    ):
        super().__init__()
        rest = 0.0 if v_reset is None else v_reset
        if not threshold > rest:
            raise ValueError(f"threshold is {threshold}; it must lie above the potential at rest, which is {rest}")
        self.threshold = nn.Parameter(torch.tensor(float(threshold))) if learn_threshold else float(threshold)
        self.v_reset = v_reset
        self.detach_reset = detach_reset
        self.surrogate = surrogate or Sigmoid()

    @abc.abstractmethod
    def charge(self) -> tuple[float | Tensor, float | Tensor]:
        """(decay, gain) of h = rest + decay (v - rest) + gain x."""

    def dynamics(self) -> Dynamics:
        """All settings as the kernels take them."""
        decay, gain = self.charge()
        return Dynamics(decay, gain, self.threshold, self.v_reset, self.detach_reset, self.surrogate)

    def forward(self, x: Tensor, num_steps: int | None = None) -> Tensor:
        """Spikes from rest. x: [T, ...] -> same; or [1, ...] and `num_steps`: one input shared by all steps."""
        return lif(x, self.dynamics(), num_steps=num_steps, keep_v=False)[0]

    def initial_state(self, x: Tensor) -> Tensor:
        """The potential at rest for an input x: [...] of one step."""
        return torch.full_like(x, self.dynamics().rest)

    def step(self, x: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Spikes and new potential of one step. x, state: [...] -> [...], [...]; None starts from rest.

        It is no call of the module, so that hooks do not run. Raises NotImplementedError for a subclass that has a
        forward of its own and no step.
        """
        if has_own_forward(self) and type(self).step is Neuron.step:
            name = type(self).__name__
            raise NotImplementedError(
                f"{name} has a forward of its own and Neuron's step, which would differ; define {name}.step as well"
            )
        if has_hooks(self):
            say_once(self, "has hooks: step does not run them, only calls of the module do")
        spikes, state = lif(x.unsqueeze(0), self.dynamics(), state)
        return spikes[0], state

    def extra_repr(self) -> str:
        return f"threshold={self.threshold!r}, v_reset={self.v_reset}, surrogate={self.surrogate}"
