"""The only place that folds time into the batch. Memory is (T, B, H, W, C) throughout: folding is a view.

T time, B batch, C channels, H W space.
"""

from collections.abc import Callable

import torch.fx
from torch import Tensor

from spimm.kernels.cpu import channels_last, regular

torch.fx.wrap("regular")  # one node of traced graphs: it looks at strides, which are not known there


def over_time(module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Applies a 4-D module to every step. x: [T, B, C, H, W] -> [T, B, C', H', W']."""
    return unfold_time(module(fold_time(x)), x)


def fold_time(x: Tensor) -> Tensor:
    """The steps as images of one batch. [T, B, C, H, W] -> [T B, C, H, W]."""
    return regular(x.flatten(0, 1), 1)


def unfold_time(images: Tensor, like: Tensor) -> Tensor:
    """Images as the steps of `like`, [T, B, ...]. [T B, C, H, W] -> [T, B, C, H, W]."""
    return regular(images.unflatten(0, like.shape[:2]), 2)


def as_sequence(x: Tensor, num_steps: int, in_chans: int) -> tuple[Tensor, int]:
    """Model input as time-first, channels-last steps, and the number of steps.

    Image [B, C, H, W] -> [1, B, C, H, W], num_steps: one step shared by all. Sequence [B, T, C, H, W] ->
    [T, B, C, H, W], T. Raises ValueError for another rank or number of channels, or an empty batch.
    """
    if x.dim() not in (4, 5):
        raise ValueError(
            f"input has shape {tuple(x.shape)}; wanted an image [B, C, H, W] or a sequence [B, T, C, H, W]"
        )
    if x.shape[-3] != in_chans:
        raise ValueError(f"input of shape {tuple(x.shape)} has {x.shape[-3]} channels; the model takes {in_chans}")
    if x.numel() == 0:
        raise ValueError(f"input of shape {tuple(x.shape)} is empty; wanted at least one image and one step")
    steps = x.unsqueeze(0) if x.dim() == 4 else x.transpose(0, 1)
    return channels_last(steps), num_steps if x.dim() == 4 else x.shape[1]
