"""Networks small enough to count by hand, and a QKFormer whose neurons fire."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import spimm
from spimm.layers import ConvNormNeuron, as_sequence
from spimm.neurons import IF


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread."""


class CountableNet(nn.Module):
    """1x1 conv 1 -> 2 with weights 1 and 10, IF; 3x3 conv 2 -> 1 with weights 2, pool or not, IF; mean; linear 1 -> 2.

    Four steps. On an image that is 0.6 at one pixel and 0 elsewhere the first neuron of that pixel fires at steps 2 and
    4, the second at every step.
    """

    def __init__(self, *, pool: bool = False) -> None:
        super().__init__()
        self.stem = ConvNormNeuron(1, 2, 1, neuron=IF())
        self.body = ConvNormNeuron(2, 1, 3, pool=pool, neuron=IF())
        self.head = nn.Linear(1, 2)
        with torch.no_grad():
            self.stem.conv.weight.copy_(torch.tensor([1.0, 10.0]).view(2, 1, 1, 1))
            self.body.conv.weight.fill_(2.0)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        x, num_steps = as_sequence(x, 4, 1)
        return self.head(self.body(self.stem(x, num_steps)).mean((0, 3, 4)))


@pytest.fixture
def countable() -> Callable[..., CountableNet]:
    return CountableNet


@pytest.fixture
def one_pixel() -> Tensor:
    """Two images of 2x2: one bright pixel in the first, none in the second."""
    x = torch.zeros(2, 1, 2, 2)
    x[0, 0, 0, 0] = 0.6
    return x


@pytest.fixture
def firing() -> Callable[..., nn.Module]:
    """An untrained model in eval mode whose norms are strong enough to make every stage fire."""

    def build(name: str = "qkformer_3_64_digits", **options: object) -> nn.Module:
        torch.manual_seed(0)
        model = spimm.create_model(name, **options)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, 3.0)
                module.momentum = 1.0
        channels = model.config.in_chans
        with torch.no_grad():
            model.train()(torch.rand(8, channels, 16, 16))
        return model.eval()

    return build
