"""Modules whose norms do something, and one thread."""

from typing import Any, TypeVar

import pytest
import torch
from torch import nn

import spimm

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread and one seed."""
    torch.manual_seed(0)


@torch.no_grad()
def settled(module: ModuleT) -> ModuleT:
    """The module in eval mode with norms that scale, turn and shift every channel in another way."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            if part.affine:
                part.weight.uniform_(1, 3).mul_((torch.rand_like(part.weight) > 0.3) * 2 - 1)
                part.bias.uniform_(-0.5, 1.5)
            part.running_mean.normal_(std=0.3)
            part.running_var.uniform_(0.3, 2)
    return module.eval()


def tiny(**options: Any) -> nn.Module:
    """A QKFormer of 16 channels in its last stage, for images of 8x8 and more."""
    settings = {"embed_dim": 16, "num_heads": 2, "depths": (1, 1, 2), "num_steps": 3, **options}
    return settled(spimm.create_model("qkformer_4_384_cifar", **settings))


def tiny_meta(**options: Any) -> nn.Module:
    """A Meta-SpikeFormer of 32 channels in its last stage, for images of 8x8 and more."""
    small = {"widths": (4, 8, 16, 16, 32), "depths": (1, 1, 1, 2, 1), "num_heads": 2, "num_steps": 3}
    return settled(spimm.create_model("metaspikeformer_cifar", **{**small, **options}))
