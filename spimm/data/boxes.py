"""Which pixels lie in rectangles, one for each image."""

import torch
from torch import Tensor


def span(length: Tensor, position: Tensor, size: int) -> Tensor:
    """Which of `size` pixels lie in an interval: length in pixels and position in [0, 1), [K] -> bool [K, size]."""
    length = length.round().clamp(1, size)
    start = (position * (size - length + 1)).floor()
    pixel = torch.arange(size, device=length.device)
    return (pixel >= start[:, None]) & (pixel < (start + length)[:, None])


def box(height: Tensor, width: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels of rectangles in images of `size` (H, W): sides in pixels, places in [0, 1), [K] -> bool [K, H, W]."""
    return span(height, top, size[0])[:, :, None] & span(width, left, size[1])[:, None, :]
