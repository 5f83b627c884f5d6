"""Layers of spike times (Wei et al. 2023, DTA-TTFS): input codes, products of both planes, units, read-outs.

P planes: 2 of spikes, what is left of the window when a neuron fires and whether it does; 1 of ordinary activations.
N images, C channels, H W space, F features.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spimm.kernels import psp_conv2d, psp_linear
from spimm.layers.plain import Conv2d
from spimm.neurons import RelPSP, ReLU1
from spimm.neurons.by_itself import fusible, has_hooks, has_own_forward, say_once

ReadOut = Literal["start", "end", "time"]


@fusible
class PSPConv2d(Conv2d):
    """Both planes by the same weights, no bias. [P, N, C, H, W] -> [P, N, C', H', W']; `padding` on each side."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, *, padding: int = 0):
        super().__init__(in_chans, out_chans, kernel_size, padding=padding, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return psp_conv2d(x, self.weight, padding=self.padding[0])  # type: ignore[arg-type]


@fusible
class PSPLinear(nn.Linear):
    """Both planes by the same weights, no bias. [P, N, F] -> [P, N, F']; [N, F] -> [N, F']."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.dim() == 2 else psp_linear(x, self.weight)


@fusible
class TTFSUnit(nn.Module):
    """A product, its neurons, and with `pool` 2 the earliest spike of each 2x2 square. [P, N, ...] -> [P, N, ...]."""

    def __init__(self, product: nn.Module, neuron: RelPSP | ReLU1, *, pool: int = 1):
        super().__init__()
        self.product, self.neuron, self.pool = product, neuron, pool

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(self.product(x), self.pool)


@fusible
class DirectCode(nn.Module):
    """Direct coding: neurons fire at 1 - a, a = max(0, min(1, conv(x))), in units of the window; a = 0 is silent.

    x: images [N, C, H, W] -> spikes [P, N, C', H', W'], with `pool` 2 the earliest of each 2x2 square.
    """

    def __init__(self, conv: nn.Conv2d, *, planes: int, window: float = 1.0, pool: int = 1):
        super().__init__()
        self.conv, self.planes, self.window, self.pool = conv, planes, window, pool

    def forward(self, x: Tensor) -> Tensor:
        activation = self.conv(x).clamp(0, 1)
        activation = activation if self.pool == 1 else F.max_pool2d(activation, self.pool)
        return as_spikes(activation, self.planes, self.window)


@fusible
class PixelCode(nn.Module):
    """Eq. 1: a pixel of value a in [0, 1] fires at 1 - a, in units of the window; a black one stays silent.

    x: images [N, C, H, W] -> spikes [P, N, C, H, W]. Raises ValueError for values outside [0, 1].
    """

    def __init__(self, *, planes: int, window: float = 1.0):
        super().__init__()
        self.planes, self.window = planes, window

    def forward(self, x: Tensor) -> Tensor:
        low, high = (0.0, 1.0) if x.is_meta else (float(value) for value in _values(x).detach().aminmax())
        if not 0 <= low <= high <= 1:
            raise ValueError(f"pixels lie between {low:.4g} and {high:.4g}; wanted values in [0, 1], not standardised")
        return as_spikes(x, self.planes, self.window)


def _values(x: Tensor) -> Tensor:
    """The numbers behind x, those of the whole batch within torch.func.vmap."""
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    while functorch.is_functorch_wrapped_tensor(x):
        x = functorch.get_unwrapped(x)
    return x


def as_spikes(activation: Tensor, planes: int, window: float = 1.0) -> Tensor:
    """Planes of an activation in [0, 1]: 0 is silent. [N, ...] -> [planes, N, ...]."""
    if planes == 1:
        return activation.unsqueeze(0)
    return torch.stack([activation * window, (activation.detach() > 0).to(activation.dtype)])


@fusible
class Readout(nn.Module):
    """Logits from the drive of the output neurons. [P, N, K] -> [N, K].

    "start": the potential where their window starts, all input having arrived; "end": where it ends; "time": minus the
    time at which they fire (Eq. 8), which is the end of the window where they do not.
    """

    def __init__(self, kind: ReadOut, neuron: RelPSP | ReLU1):
        super().__init__()
        if kind not in get_args(ReadOut):
            raise ValueError(f"readout is {kind!r}; wanted {', '.join(get_args(ReadOut))}")
        if kind != "start" and isinstance(neuron, ReLU1):
            raise ValueError(f"readout is {kind!r}; a network of ReLU1 has no spike times, wanted start")
        self.kind, self.neuron = kind, neuron

    def forward(self, drive: Tensor) -> Tensor:
        if self.kind != "time" and (has_hooks(self.neuron) or has_own_forward(self.neuron)):
            say_once(self.neuron, f"of a read-out by potential, {self.kind!r}, does not fire and is not called")
        if self.kind == "start":
            return drive[0]
        assert isinstance(self.neuron, RelPSP)
        if self.kind == "end":
            return drive[0] + self.neuron.window * drive[1]
        return self.neuron(drive)[0] - self.neuron.window

    def extra_repr(self) -> str:
        return f"kind={self.kind!r}"
