"""A tiny network of each family, in float64, for grey images of 8 x 8."""

from typing import Any

import torch
from torch import Tensor, nn

from spimm import create_model

TINY: dict[str, tuple[str, dict[str, Any]]] = {
    "qkformer": ("qkformer_3_64_digits", {"embed_dim": 16, "num_heads": 2, "num_steps": 2}),
    "metaspikeformer": (
        "metaspikeformer_mnist",
        {
            "widths": (4, 8, 16),
            "depths": (1, 1, 1),
            "strides": (1, 2, 2),
            "blocks": ("conv", "transformer", "transformer"),
            "num_heads": 2,
            "num_steps": 2,
            "distillation": True,
        },
    ),
    "spikeatconv": (
        "spikeatconv_mnist",
        {"widths": (8, 16), "depths": (1, 1), "strides": (1, 2), "head_dim": 8, "group_size": 2, "num_steps": 2},
    ),
    "resnet": ("resnet18_cifar_small", {"in_chans": 1, "width": 4, "depths": (1, 1), "num_steps": 2}),
    "ttfs": ("ttfs_mnist_cnn", {"convs": "6,M,8,M", "hidden": "12", "image_size": 8, "kernel_size": 3, "padding": 1}),
}


def tiny_model(family: str, *, exact: bool = True, num_classes: int = 10, **changes: Any) -> nn.Module:
    """The family's network, always with the same weights, and norms so strong that all its neurons fire.

    `exact` computes in float64: spikes then do not depend on the order of a sum, which float32 does not promise.
    """
    name, options = TINY[family]
    torch.manual_seed(0)
    model = create_model(name, num_classes=num_classes, **{**options, **changes})
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 1.5, 3)
            nn.init.uniform_(part.bias, 0, 1)
    if exact:
        model.double().register_forward_pre_hook(_widen)
    return model


def _widen(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].double(),)
