"""Augmentation of sequences of event-count frames: all frames of a sequence are changed alike, every sequence anew.

Legend: B sequences, T frames, C channels, H W space, K chosen sequences. Sequences are [B, T * C, H, W], best in
channels-last memory, where a pixel of all frames is one piece; counts are integers, whatever their dtype.
"""

from typing import Literal

import torch
from torch import Tensor

from spimm.data.boxes import box

EventPolicy = Literal["wide"]

# QKFormer's policy for event data (SNNAugmentWide of its code): one of six, and how far it goes, in LEVELS equal steps.
WIDE = ("identity", "shear", "across", "down", "rotate", "cutout")
LEVELS, SHEAR, SHIFT, TURN, CUT_AREA = 31, 0.3, 5, 30.0, (0.001, 0.11)
"""Steps, radians, pixels, degrees, share of the sensor."""
# EventDrop (Gu et al. 2021, section 3): shares of the events or of the time, and of both sides of the sensor.
DROP_SHARES, DROP_SIDES = (0.1, 0.9), (0.05, 0.25)


def wide_policy(sequences: Tensor, generator: torch.Generator) -> Tensor:
    """One of `WIDE` for each sequence, all as likely: nothing, a slant, a shift in x or in y by whole pixels, a turn,
    or a square without events. Takes the nearest pixel; 0 comes in. [B, T * C, H, W] -> same.
    """
    device, (batch, _, height, width) = sequences.device, sequences.shape
    operation = torch.randint(len(WIDE), (batch,), generator=generator, device=device)
    level = torch.randint(LEVELS, (batch,), generator=generator, device=device) * (2 / (LEVELS - 1)) - 1
    size, top, left = torch.rand(3, batch, generator=generator, device=device)
    slant, across, down, turn = (
        torch.where(operation == WIDE.index(name), limit * level, 0.0)[:, None, None]
        for name, limit in (("shear", SHEAR), ("across", SHIFT), ("down", SHIFT), ("rotate", TURN * torch.pi / 180))
    )
    y = torch.arange(height, device=device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device) - (width - 1) / 2
    # Where each pixel comes from.
    row = turn.cos() * y - turn.sin() * x - down.trunc() + height / 2
    column = turn.sin() * y + turn.cos() * x + slant.tan() * y - across.trunc() + width / 2
    row, column = row.floor().long(), column.floor().long()
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    moved = _pick(sequences, row.clamp(0, height - 1), column.clamp(0, width - 1))
    side = (height * width * (CUT_AREA[0] + size * (CUT_AREA[1] - CUT_AREA[0]))).sqrt()
    hidden = box(side, side, top, left, (height, width)) & (operation == WIDE.index("cutout"))[:, None, None]
    return moved.permute(0, 2, 3, 1).masked_fill_((hidden | ~inside)[..., None], 0).permute(0, 3, 1, 2)


def roll(images: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Images moved by whole pixels in [-limit, limit], rows and columns apart; what leaves comes in opposite.

    [B, C, H, W] -> same (Li et al. 2022, Neuromorphic Data Augmentation).
    """
    device, (batch, _, height, width) = images.device, images.shape
    down, across = torch.randint(-limit, limit + 1, (2, batch, 1, 1), generator=generator, device=device)
    row = (torch.arange(height, device=device)[:, None] - down) % height
    column = (torch.arange(width, device=device) - across) % width
    return _pick(images, row.expand(batch, height, width), column.expand(batch, height, width))


def drop_events(sequences: Tensor, probability: float, generator: torch.Generator, *, frames: int) -> Tensor:
    """EventDrop on frames: with `probability`, each way as likely, a sequence loses the frames whose middle lies in a
    span of time, or a rectangle in all frames, or each event by chance. [B, T * C, H, W] -> same.

    frames: T. A sequence that would lose everything stays as it is. The paper takes one of the three or none, all as
    likely: 0.75.
    """
    device, batch = sequences.device, len(sequences)
    way = torch.randint(3, (batch,), generator=generator, device=device)
    way[torch.rand(batch, generator=generator, device=device) >= probability] = -1
    result = sequences.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
    for number, lose in enumerate((_by_time, _by_area, _by_chance)):
        chosen = (way == number).nonzero().flatten()
        before = result.index_select(0, chosen).unflatten(-1, (frames, -1))
        after = lose(before, generator)
        left = (after != 0).flatten(1).any(1)
        result.index_copy_(0, chosen[left], after[left].flatten(3))
    return result.permute(0, 3, 1, 2)


def _by_time(counts: Tensor, generator: torch.Generator) -> Tensor:
    """[K, H, W, T, C] -> same."""
    device, (batch, _, _, frames, _) = counts.device, counts.shape
    start = torch.rand(batch, 1, generator=generator, device=device)
    middle = (torch.arange(frames, device=device) + 0.5) / frames
    lost = (middle >= start) & (middle < start + _share(DROP_SHARES, 0.1, counts, generator)[:, None])
    return counts.masked_fill(lost[:, None, None, :, None], 0)


def _by_area(counts: Tensor, generator: torch.Generator) -> Tensor:
    """[K, H, W, T, C] -> same."""
    batch, height, width = counts.shape[:3]
    share = _share(DROP_SIDES, 0.05, counts, generator)
    top, left = torch.rand(2, batch, generator=generator, device=counts.device)
    hidden = box(share * height, share * width, top, left, (height, width))
    return counts.masked_fill(hidden[..., None, None], 0)


def _by_chance(counts: Tensor, generator: torch.Generator) -> Tensor:
    """Binomial thinning: [K, H, W, T, C] -> same."""
    kept = 1 - _share(DROP_SHARES, 0.1, counts, generator)
    where = counts.nonzero(as_tuple=True)
    thinned = torch.binomial(counts[where].float(), kept[where[0]], generator=generator)
    return counts.index_put(where, thinned.to(counts.dtype))


def _share(limits: tuple[float, float], step: float, counts: Tensor, generator: torch.Generator) -> Tensor:
    """One multiple of `step` within `limits` for each sequence, [K]."""
    low, high = (round(limit / step) for limit in limits)
    return torch.randint(low, high + 1, (len(counts),), generator=generator, device=counts.device) * step


def _pick(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """The pixel at (row, column) of each image for each of its pixels, all channels. [B, C, H, W], int64 [B, H, W]."""
    batch, channels, height, width = images.shape
    first = torch.arange(batch, device=images.device)[:, None, None] * (height * width)
    index = (first + row * width + column).flatten()
    pixels = images.permute(0, 2, 3, 1).reshape(-1, channels).index_select(0, index)
    return pixels.view(batch, height, width, channels).permute(0, 3, 1, 2)
