"""Random steps with the memory order of the models, and one thread."""

from typing import TypeVar

import pytest
import torch
from torch import Tensor, nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@pytest.fixture(autouse=True)
def every_test_runs_on(one_thread: None) -> None:
    """One thread and one seed."""
    torch.manual_seed(0)


def steps(*shape: int, scale: float = 2.0, seed: int = 0) -> Tensor:
    """Normal values [T, B, C, H, W], channels fastest in memory."""
    generator = torch.Generator().manual_seed(seed)
    num_steps, batch, channels, height, width = shape
    return (torch.randn(num_steps, batch, height, width, channels, generator=generator) * scale).movedim(-1, 2)


def spike_steps(*shape: int, rate: float = 0.3, seed: int = 0) -> Tensor:
    """Random spikes, laid out as `steps`."""
    return (steps(*shape, scale=1, seed=seed) > -torch.special.ndtri(torch.tensor(rate))).float()


def is_channels_last(x: Tensor) -> bool:
    """True for a dense [T, B, C, H, W] tensor in the memory order (T, B, H, W, C)."""
    return x.movedim(2, -1).is_contiguous()


@torch.no_grad()
def lively(module: ModuleT) -> ModuleT:
    """The module with norms so strong that neurons behind them fire with the fresh statistics, too."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.uniform_(2, 4)
            part.bias.uniform_(0, 2)
    return module
