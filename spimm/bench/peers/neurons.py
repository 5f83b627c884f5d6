"""LIF alone, and behind a batch norm, in each library. All take x: [T, B, C, H, W] -> spikes of the same shape."""

from collections.abc import Sequence
from functools import reduce
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from spimm.bench.peers.libraries import norse, snntorch, spikingjelly

SLOPE = 4.0
"""Of the surrogate `sigmoid`, the derivative of sigmoid(SLOPE u)."""
ALPHA = 2.0
"""Of the surrogate `atan`, ALPHA / 2 / (1 + (pi / 2 ALPHA u)^2)."""
Surrogate = Literal["sigmoid", "atan"]


class PeerSpikes(Protocol):
    """What is told of a neuron that is not written in our units."""

    input_scale: float
    """It is given our input times this: what its user would put into the weights of the layer before."""
    detach_reset: bool
    """Whether no gradient flows through its reset."""

    def __call__(self, x: Tensor) -> Tensor: ...


def lif_node(threshold: float = 1.0, *, surrogate: Surrogate = "sigmoid") -> nn.Module:
    """SpikingJelly's LIF of tau 2, hard reset to 0, detached reset, all steps in one call. [T, ...] -> [T, ...]."""
    library = spikingjelly()
    smooth = library.surrogate.ATan(alpha=ALPHA) if surrogate == "atan" else library.surrogate.Sigmoid(alpha=SLOPE)
    return library.neuron.LIFNode(
        tau=2.0,
        v_threshold=threshold,
        detach_reset=True,
        surrogate_function=smooth,
        step_mode="m",
    )


class PeerLIF(nn.Module):
    """SpikingJelly's LIF from rest."""

    input_scale, detach_reset = 1.0, True

    def __init__(self, threshold: float = 1.0, *, surrogate: Surrogate = "sigmoid") -> None:
        super().__init__()
        self.reset_net = spikingjelly().functional.reset_net
        self.neuron = lif_node(threshold, surrogate=surrogate)

    def forward(self, x: Tensor) -> Tensor:
        self.reset_net(self)
        return self.neuron(x)


class Branches(nn.Module):
    """LIFs of these thresholds on the same input: how many of them fire. x: [T, ...] -> same, 0..n."""

    def __init__(self, thresholds: Sequence[float], surrogate: Surrogate):
        super().__init__()
        self.neurons = nn.ModuleList(lif_node(threshold, surrogate=surrogate) for threshold in thresholds)

    def each(self, x: Tensor) -> list[Tensor]:
        """The spikes of each LIF, n of [T, ...]."""
        return [neuron(x) for neuron in self.neurons]

    def forward(self, x: Tensor) -> Tensor:
        return reduce(torch.add, self.each(x))


class PeerMultiLIF(nn.Module):
    """`Branches` from rest."""

    def __init__(self, thresholds: Sequence[float], *, surrogate: Surrogate = "sigmoid"):
        super().__init__()
        self.reset_net = spikingjelly().functional.reset_net
        self.branches = Branches(thresholds, surrogate)

    def forward(self, x: Tensor) -> Tensor:
        self.reset_net(self)
        return self.branches(x)


class PeerNormLIF(nn.Module):
    """LIF(BN(x)) from rest, torch's norm and SpikingJelly's neuron."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.neuron = PeerLIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.neuron(self.norm(x.flatten(0, 1)).unflatten(0, x.shape[:2]))


class SnnTorchLIF(nn.Module):
    """snnTorch's Leaky, h = beta v + x: ours with half the input. It resets when the next step begins: the same."""

    input_scale, detach_reset = 0.5, True

    def __init__(self) -> None:
        super().__init__()
        library = snntorch()
        spike_grad = library.surrogate.sigmoid(slope=SLOPE)
        self.neuron = library.Leaky(beta=0.5, threshold=1.0, spike_grad=spike_grad, reset_mechanism="zero")

    def forward(self, x: Tensor) -> Tensor:
        potential, spikes = torch.zeros_like(x[0]), []
        for current in x:
            fired, potential = self.neuron(current, potential)
            spikes.append(fired)
        return torch.stack(spikes)


class NorseLIF(nn.Module):
    """Norse's LIFBox (LIF without a synaptic current), dt / tau = 1/2. Gradients flow through its reset.

    Its surrogate `tanh` is 1 - tanh(k u)^2, with k = SLOPE / 2 the derivative of sigmoid(SLOPE u).
    """

    input_scale, detach_reset = 1.0, False

    def __init__(self) -> None:
        super().__init__()
        library = norse()
        parameters = library.LIFBoxParameters(
            tau_mem_inv=torch.tensor(500.0), method="tanh", alpha=torch.tensor(SLOPE / 2)
        )
        self.neuron = library.LIFBoxCell(parameters, dt=0.001)

    def forward(self, x: Tensor) -> Tensor:
        state, spikes = None, []
        for current in x:
            fired, state = self.neuron(current, state)
            spikes.append(fired)
        return torch.stack(spikes)


class CompiledLIF(nn.Module):
    """The loop that one writes by hand, under torch.compile."""

    input_scale, detach_reset = 1.0, True

    def __init__(self, *, backend: str = "inductor"):
        super().__init__()
        self.loop = torch.compile(_loop, backend=backend, fullgraph=True, dynamic=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.loop(x)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u >= 0).to(u.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        smooth = torch.sigmoid(SLOPE * u)
        return grads[0] * SLOPE * smooth * (1 - smooth)


def _loop(x: Tensor) -> Tensor:
    potential, spikes = torch.zeros_like(x[0]), []
    for current in x.unbind():
        charged = potential + (current - potential) / 2
        fired = _Fire.apply(charged - 1)
        assert isinstance(fired, Tensor)
        potential = charged * (1 - fired.detach())
        spikes.append(fired)
    return torch.stack(spikes)
