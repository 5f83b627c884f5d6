"""Small networks of spike times and layers with every kind of neuron, for the tests of simulations."""

from typing import Any

import torch
from torch import Tensor, nn

import spimm
from spimm.layers import PSPConv2d, PSPLinear


def small(**options: Any) -> nn.Module:
    """Two convolutions with pools and a hidden layer, for 12x12 pixels in [0, 1], in float64."""
    settings: dict[str, Any] = {
        "image_size": 12, "convs": "6,M,8,M", "kernel_size": 3, "hidden": "20,16", "num_classes": 10, **options
    }  # fmt: skip
    return spimm.create_model("ttfs_mnist_cnn", **settings).double().eval()


def direct(**options: Any) -> nn.Module:
    """Direct coding with a pool at once, padding and a last stage without a pool, for 8x8 pixels of 3 channels."""
    settings = {"image_size": 8, "convs": "5,M,6,7,M,9", "hidden": "20", **options}
    return spimm.create_model("ttfs_vgg11", **settings).double().eval()


def images(count: int = 8, size: int = 12, chans: int = 1) -> Tensor:
    """Pixels in [0, 1], half of them black; the first image is all black."""
    x = torch.rand(count, chans, size, size, dtype=torch.float64)
    x[torch.rand_like(x) < 0.5] = 0
    x[0] = 0
    return x


CASES = {"conv": PSPConv2d(3, 7, 3, padding=1), "valid": PSPConv2d(3, 7, 2), "linear": PSPLinear(40, 30)}


def layer_and_spikes(kind: str, *, window: float = 1.0, num_steps: int | None = None) -> tuple[nn.Module, Tensor]:
    """A product and its input [2, N, ...], of samples that are all silent, of one spike and of many.

    With `num_steps` spikes lie on the grid of so many steps. Drives come in every kind: above the threshold at once,
    below 0 at the end, with 1 + W at or below 0.
    """
    product = CASES[kind].double()
    nn.init.normal_(product.weight, std=0.5)  # type: ignore[arg-type]
    shape = (6, 40) if kind == "linear" else (6, 3, 5, 6)
    left = torch.rand(shape, dtype=torch.float64)
    if num_steps is not None:
        left = (left * (num_steps + 1)).floor() / num_steps
    fired = (torch.rand(shape) < 0.5).double()
    fired[0] = 0
    fired[1] = 0
    fired[1].view(-1)[7] = 1
    return product, torch.stack([left * window * fired, fired])
