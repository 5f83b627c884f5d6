"""Weights with which a network's eval mode is free of rounding, so that two implementations must give equal spikes.

With ordinary weights a sum's last bit, which depends on the order of summation, now and then decides a spike, and one
other spike in the first layer becomes another feature map in the last. Here weights, biases and statistics lie on a
coarse binary grid and norms divide by powers of two: float32 holds every potential exactly, in whatever order.

In a row of linear layers without a neuron in between (RepConv, the separable convolution) each layer's grid multiplies
the one's before. Their weights have three bits, on a grid that goes with their size, and the norms inside multiply by
powers of two and subtract few multiples of what they divide by.

Softmax is never exact: neurons behind it are kept away from their thresholds.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from spimm.layers import ConvUnit, GroupAttention, RepConv, SepConv, SpikingAttention

WEIGHT_GRID = 2**-10
IMAGE_GRID = 2**-3
AFFINE_GRID = 2**-2
MAX_LOG_STD = 6
LEAST_RATE = 0.01
"""Of spikes, that an attention's core should give."""
BIAS_RAISE, MOST_RAISES = 2**-1, 8
"""Few tokens of few spikes do not make an attention's neurons fire, since they see sums over tokens."""
SOFTMAX_ERROR = 2**-16
"""Relative, of what a softmax attention gives, that decides no spike."""


def exact_image(*shape: int, generator: torch.Generator) -> Tensor:
    """Normal values on the grid."""
    return _on_grid(torch.randn(shape, generator=generator), IMAGE_GRID)


@torch.no_grad()
def make_exact(model: nn.Module, images: Tensor, generator: torch.Generator) -> None:
    """Changes weights and statistics of the convolutions and batch norms of `model`; leaves it in eval mode.

    The statistics are those of `images`, rounded, so that neurons fire; where an attention stays silent, the biases of
    its q, k and v are raised. Behind a softmax no neuron is near its threshold on these images. Only the head keeps its
    weights.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    inner = set(_inner(model))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            spacing = _row_grid(module) if module in inner else WEIGHT_GRID
            for parameter in module.parameters():
                parameter.copy_(_on_grid(parameter, spacing))
    for norm in norms:
        spread = torch.rand(2, norm.num_features, generator=generator)
        norm.weight.copy_(spread[0].round().exp2() if norm in inner else _on_grid(0.5 + spread[0], AFFINE_GRID))
        norm.bias.copy_(_on_grid(0.5 * spread[1], AFFINE_GRID))
    _take_statistics(model, norms, images)
    for norm in norms:
        assert norm.running_mean is not None and norm.running_var is not None
        log_std = (0.5 * torch.log2(norm.running_var + norm.eps)).round().clamp(-MAX_LOG_STD, MAX_LOG_STD)
        spacing = AFFINE_GRID * torch.exp2(log_std) if norm in inner else WEIGHT_GRID
        norm.running_mean.copy_(_on_grid(norm.running_mean, spacing))
        norm.running_var.copy_(torch.exp2(2 * log_std.double()) - norm.eps)
    _keep_off_thresholds(model.eval(), images)


def _keep_off_thresholds(model: nn.Module, images: Tensor) -> None:
    """Lowers biases of v until rounding in a softmax decides no spike; a v without spikes gives 0, so that it ends."""

    def lower(attention: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(attention, SpikingAttention) and isinstance(attention.core, GroupAttention)
        core, bias = attention.core, _bias(attention)
        while True:
            y = core.attend(attention.qkv(inputs[0]))
            undecided = (core.spk(y * (1 - SOFTMAX_ERROR)) != core.spk(y * (1 + SOFTMAX_ERROR))).any(-1)
            channels = undecided.any(-1).flatten(0, 1).any(0)
            if not channels.any():
                return
            bias[-len(channels) :] -= AFFINE_GRID * channels

    attentions = [module for module in model.modules() if isinstance(module, SpikingAttention)]
    softmax = [attention for attention in attentions if isinstance(attention.core, GroupAttention)]
    hooks = [attention.register_forward_pre_hook(lower) for attention in softmax]
    if hooks:
        model(images)
    for hook in hooks:
        hook.remove()


def _take_statistics(model: nn.Module, norms: list[nn.BatchNorm2d], images: Tensor) -> None:
    """Running statistics become those of `images`, with biases of attentions such that they are not silent."""
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # statistics are the average over all calls since their reset: those of the last one
    attentions = [module for module in model.modules() if isinstance(module, SpikingAttention)]
    rates: dict[nn.Module, float] = {}

    def keep_rate(core: nn.Module, _: Any, spikes: Tensor) -> None:
        rates[core] = float(spikes.float().mean())

    def silent() -> list[SpikingAttention]:
        for norm in norms:
            norm.reset_running_stats()
        model.train()(images)
        return [attention for attention in attentions if rates[attention.core] < LEAST_RATE]

    hooks = [attention.core.register_forward_hook(keep_rate) for attention in attentions]
    found = silent()
    for _ in range(MOST_RAISES):
        for attention in found:
            _bias(attention).add_(BIAS_RAISE)
        found = found and silent()
    for hook in hooks:
        hook.remove()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _bias(attention: SpikingAttention) -> Tensor:
    """Of the norm in front of q, k and v."""
    assert isinstance(attention.qkv, ConvUnit)
    return attention.qkv.norm.bias


def _inner(model: nn.Module) -> Iterator[nn.Module]:
    """Convolutions and norms of rows that have more than one convolution."""
    for module in model.modules():
        if isinstance(module, RepConv):
            yield from (module.expand, module.expand_norm, module.depthwise, module.project, module.project_norm)
        elif isinstance(module, SepConv):
            yield from module.mix.conv.children()


def _row_grid(conv: nn.Conv2d) -> float:
    """The spacing that leaves weights, uniform within 1 / sqrt(inputs of an output) at first, about three bits."""
    inputs = conv.weight[0].numel()
    return 2.0 ** (math.floor(-0.5 * math.log2(inputs)) - 1)


def _on_grid(x: Tensor, spacing: float | Tensor) -> Tensor:
    return (x / spacing).round() * spacing
