"""Small models, big ones without memory, and one thread."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import spimm


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread and one seed."""
    torch.manual_seed(0)


def tiny(**options: Any) -> nn.Module:
    """A QKFormer of 16 channels in its last stage, for images of 8x8 and more, whose neurons fire in eval mode, too."""
    settings = {"embed_dim": 16, "num_heads": 2, "depths": (1, 1, 2), "num_steps": 3, **options}
    return lively(spimm.create_model("qkformer_4_384_cifar", **settings).eval())


def tiny_meta(**options: Any) -> nn.Module:
    """A Meta-SpikeFormer of 32 channels in its last stage, for images of 8x8 and more; neurons fire as in `tiny`."""
    small = {"widths": (4, 8, 16, 16, 32), "depths": (1, 1, 1, 2, 1), "num_heads": 2, "num_steps": 3}
    return lively(spimm.create_model("metaspikeformer_cifar", **{**small, **options}).eval())


@torch.no_grad()
def lively(model: nn.Module) -> nn.Module:
    """The model with norms so strong that its neurons fire with fresh statistics."""
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(1.5, 3)
            part.bias.uniform_(0, 1)
    return model


def shapes_only(name: str, **options: Any) -> nn.Module:
    """A model on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return spimm.create_model(name, **options)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def assert_train_alike(plain: nn.Module, other: nn.Module, images: Tensor) -> None:
    """From the same weights, one backward pass gives equal gradients and equal running statistics."""
    other.load_state_dict(plain.state_dict())
    for model in (plain, other):
        model(images).square().sum().backward()
    for (name, ours), theirs in zip(other.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad), name
    for (name, ours), theirs in zip(other.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
