"""Our neurons against those of SpikingJelly: the same spikes, the same gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from spimm.neurons import IF, LIF, PLIF, Neuron
from spimm.surrogate import ATan, Sigmoid

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def peer() -> Callable[..., nn.Module]:
    """A function that makes a multi-step SpikingJelly neuron."""
    pytest.importorskip("spikingjelly")
    from spikingjelly.activation_based import neuron, surrogate

    def make(kind: str, *, sigmoid: float | None = 4.0, **settings: object) -> nn.Module:
        step = surrogate.ATan(2.0) if sigmoid is None else surrogate.Sigmoid(sigmoid)
        return getattr(neuron, kind)(step_mode="m", surrogate_function=step, **settings)

    return make


def outcome(neuron: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Spikes, and the gradient of a weighted sum of them to the input and the parameters."""
    x = x.clone().requires_grad_()
    spikes = neuron(x)
    weights = torch.cos(torch.arange(spikes.numel(), dtype=x.dtype)).reshape(spikes.shape)
    gradients = torch.autograd.grad((spikes * weights).sum(), [x, *neuron.parameters()])
    return spikes, *gradients


CASES = {
    "LIF as in QKFormer": (LIF(), "LIFNode", {"detach_reset": True}),
    "LIF, attached reset": (LIF(detach_reset=False), "LIFNode", {"detach_reset": False}),
    "LIF without input decay": (LIF(3.0, decay_input=False), "LIFNode", {"tau": 3.0, "decay_input": False}),
    "LIF, soft reset": (LIF(v_reset=None), "LIFNode", {"v_reset": None}),
    "LIF, reset to -0.25": (LIF(v_reset=-0.25), "LIFNode", {"v_reset": -0.25}),
    "LIF, threshold 0.5": (LIF(threshold=0.5), "LIFNode", {"v_threshold": 0.5}),
    "LIF, ATan": (LIF(surrogate=ATan()), "LIFNode", {"sigmoid": None}),
    "IF": (IF(), "IFNode", {}),
    "IF, soft reset": (IF(v_reset=None), "IFNode", {"v_reset": None}),
    "IF, attached reset": (IF(detach_reset=False), "IFNode", {"detach_reset": False}),
    "PLIF": (PLIF(2.0), "ParametricLIFNode", {"init_tau": 2.0}),
    "PLIF from tau 3": (PLIF(3.0, surrogate=Sigmoid(2.0)), "ParametricLIFNode", {"init_tau": 3.0, "sigmoid": 2.0}),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CASES)
def test_spikes_and_gradients_equal_those_of_spikingjelly(
    case: str, dtype: torch.dtype, peer: Callable[..., nn.Module]
) -> None:
    ours, kind, settings = CASES[case]
    neuron: Neuron = ours.to(dtype)
    theirs = peer(kind, **{"detach_reset": True, **settings}).to(dtype)
    x = torch.randn(5, 4, 3, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype) * 2
    mine, other = outcome(neuron, x), outcome(theirs, x)
    assert torch.equal(mine[0], other[0])
    assert 0.05 < mine[0].mean() < 0.95
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    for a, b in zip(mine[1:], other[1:], strict=True):
        torch.testing.assert_close(a, b, atol=tolerance * b.abs().max().item(), rtol=0, check_dtype=False)
