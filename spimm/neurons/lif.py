"""IF, LIF and PLIF: three ways to charge the same neuron."""

import difflib
import math
from typing import Any

import torch
from torch import Tensor, nn

from spimm.neurons.base import Neuron


class IF(Neuron):
    """Integrate and fire: h = v + x."""

    def charge(self) -> tuple[float, float]:
        return 1.0, 1.0


class LIF(Neuron):
    """Leaky integrate and fire: h = v + (x - v) / tau, or without input decay h = v - v / tau + x (v from rest).

    The neuron of QKFormer and Meta-SpikeFormer (tau 2, threshold 1, hard reset to 0, detached reset, Sigmoid 4).
    """

    def __init__(self, tau: float = 2.0, *, decay_input: bool = True, **settings: Any):
        super().__init__(**settings)
        if not tau >= 1:
            raise ValueError(f"tau is {tau}; wanted at least 1")
        self.tau = float(tau)
        self.decay_input = decay_input

    def charge(self) -> tuple[float, float]:
        return 1 - 1 / self.tau, 1 / self.tau if self.decay_input else 1.0

    def extra_repr(self) -> str:
        return f"tau={self.tau}, decay_input={self.decay_input}, {super().extra_repr()}"


class PLIF(Neuron):
    """LIF whose 1 / tau = sigmoid(w) is learnt, one scalar a layer. Fang et al. 2021, eq. 10-11."""

    def __init__(self, tau: float = 2.0, *, decay_input: bool = True, **settings: Any):
        super().__init__(**settings)
        if not tau > 1:
            raise ValueError(f"tau is {tau}; wanted more than 1")
        self.w = nn.Parameter(torch.tensor(-math.log(tau - 1)))
        self.decay_input = decay_input

    def charge(self) -> tuple[Tensor, Tensor | float]:
        leak = torch.sigmoid(self.w.double())
        return 1 - leak, leak if self.decay_input else 1.0

    def extra_repr(self) -> str:
        return f"decay_input={self.decay_input}, {super().extra_repr()}"


NEURONS: dict[str, type[Neuron]] = {"if": IF, "lif": LIF, "plif": PLIF}


def create_neuron(name: str, **settings: Any) -> Neuron:
    """The neuron of that name; a `tau` given to IF is an error. Raises ValueError with the nearest names."""
    if name not in NEURONS:
        near = difflib.get_close_matches(name, NEURONS) or sorted(NEURONS)
        raise ValueError(f"unknown neuron {name!r}; did you mean {', '.join(near)}?")
    return NEURONS[name](**settings)
