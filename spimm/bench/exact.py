"""Weights with which a network's eval mode is free of rounding, so that two implementations must give equal spikes.

With ordinary weights a sum's last bit, which depends on the order of summation, now and then decides a spike, and one
other spike in the first layer becomes another feature map in the last. Here weights, biases and statistics lie on a
coarse binary grid and norms divide by powers of two: float32 holds every potential exactly, in whatever order.
"""

import torch
from torch import Tensor, nn

WEIGHT_GRID = 2**-10
IMAGE_GRID = 2**-3
AFFINE_GRID = 2**-2
MAX_LOG_STD = 6


def exact_image(*shape: int, generator: torch.Generator) -> Tensor:
    """Normal values on the grid."""
    return _on_grid(torch.randn(shape, generator=generator), IMAGE_GRID)


@torch.no_grad()
def make_exact(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Changes weights and statistics of the convolutions and batch norms of `model`; leaves it in eval mode.

    The statistics are those of `images`, rounded, so that neurons fire. Only the head keeps its weights.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            for parameter in module.parameters():
                parameter.copy_(_on_grid(parameter, WEIGHT_GRID))
    for norm in norms:
        spread = torch.rand(2, norm.num_features, generator=generator)
        norm.weight.copy_(_on_grid(0.5 + spread[0], AFFINE_GRID))
        norm.bias.copy_(_on_grid(0.5 * spread[1], AFFINE_GRID))
        norm.reset_running_stats()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # statistics are the average over all calls: those of the one call
    model.train()(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(_on_grid(norm.running_mean, WEIGHT_GRID))
        log_std = (0.5 * torch.log2(norm.running_var + norm.eps)).round().clamp(-MAX_LOG_STD, MAX_LOG_STD)
        norm.running_var.copy_(torch.exp2(2 * log_std.double()) - norm.eps)
    model.eval()


def _on_grid(x: Tensor, spacing: float) -> Tensor:
    return (x / spacing).round() * spacing
