"""Batch transforms: every image of a batch draws its own shift, flip, rotation and patch, with no Python loop.

Legend: N or B images, C channels, H W space. Images are [B, C, H, W] unless the name says NHWC. Random transforms draw
from the given generator, which lives on the device of the images.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from spimm.data.boxes import box
from spimm.data.event_augment import EventPolicy, drop_events, roll, wide_policy
from spimm.data.rand_augment import check_policy, rand_augment

# Patch area as a fraction of the image, and patch height / width: Zhong et al. 2020, Random Erasing, section 4.
PATCH_AREA = (0.02, 1 / 3)
PATCH_RATIO = (0.3, 3.3)
Policy = Literal["imagenet", "cifar10"]
EraseMode = Literal["pixel", "const"]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True)
class Augment:
    """What training images go through, drawn anew for each image.

    pad: shift by up to `pad` pixels each way (= crop from a padded image).
    flip: mirror left-right with probability 1/2. rotate: turn by up to `rotate` degrees each way.
    shear: slant rows sideways by up to `shear` degrees each way, resampled once together with the turn.
    nearest: both take the nearest pixel and blend none, so that black beside ink stays black.
    auto_augment: AutoAugment's policy of that name (Cubuk et al. 2019), for uint8 images of one or three channels.
    rand_augment: RandAugment in timm's notation, such as rand-m9-mstd0.5-inc1, for the same images; the mean colour of
    the data set comes in at the border, and `fill` does not.
    fill: what comes in at the border where images are shifted, turned or slanted, 0 (black) to 255.
    erase: probability that random rectangles, `erase_count` of them that share the area of one, are replaced by noise
    (`erase_mode` pixel) or, once images are normalised, by 0 (const).
    cutout: side in pixels of a square that is set to 0 once images are normalised; 0 is off.
    roll: move by up to `roll` pixels each way, and what leaves comes in opposite.
    event_drop: sequences of event counts only, probability that one loses events in time, in an area or at random; 0.75
    in EventDrop (Gu et al. 2021). event_policy: sequences only, wide for QKFormer's six changes for event data.
    crop_scale: image files only, area range of their random resized crop; None means (0.08, 1).
    """

    pad: int = 0
    flip: bool = False
    erase: float = 0.0
    rotate: float = 0.0
    shear: float = 0.0
    nearest: bool = False
    auto_augment: Policy | None = None
    crop_scale: tuple[float, float] | None = None
    cutout: int = 0
    fill: int = 0
    rand_augment: str | None = None
    erase_mode: EraseMode = "pixel"
    erase_count: int = 1
    roll: int = 0
    event_drop: float = 0.0
    event_policy: EventPolicy | None = None

    def __post_init__(self) -> None:
        if isinstance(self.auto_augment, bool):  # from when there was one policy, on or off
            object.__setattr__(self, "auto_augment", "imagenet" if self.auto_augment else None)
        if self.auto_augment not in (None, *get_args(Policy)):
            raise ValueError(f"auto_augment must be None, imagenet or cifar10, got {self.auto_augment!r}")
        if self.rand_augment is not None:
            check_policy(self.rand_augment)
            if self.auto_augment is not None:
                raise ValueError(f"rand_augment must be None with auto_augment={self.auto_augment}")
        if self.event_policy not in (None, *get_args(EventPolicy)):
            raise ValueError(f"event_policy must be None or wide, got {self.event_policy!r}")
        for name in ("pad", "cutout", "roll"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0 pixels, got {getattr(self, name)}")
        if not 0 <= self.fill <= 255:
            raise ValueError(f"fill must lie in [0, 255], got {self.fill}")
        for name in ("erase", "event_drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be a probability in [0, 1], got {getattr(self, name)}")
        if self.erase_mode not in get_args(EraseMode):
            raise ValueError(f"erase_mode must be pixel or const, got {self.erase_mode!r}")
        if self.erase_count < 1:
            raise ValueError(f"erase_count must be at least 1, got {self.erase_count}")
        if not 0 <= self.rotate <= 180:
            raise ValueError(f"rotate must lie in [0, 180] degrees, got {self.rotate}")
        if not 0 <= self.shear < 90:
            raise ValueError(f"shear must lie in [0, 90) degrees, got {self.shear}")
        if self.crop_scale is not None and not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise ValueError(f"crop_scale must be (low, high) with 0 < low <= high <= 1, got {self.crop_scale}")

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """`move`, then `hide`."""
        return self.hide(self.move(images, generator), generator)

    def move(self, images: Tensor, generator: torch.Generator, *, mean: tuple[float, ...] | None = None) -> Tensor:
        """Warped, shifted and flipped images, then AutoAugment or RandAugment, uint8 or float [B, C, H, W] -> same.

        Pixels are 0 to 255: use before norm. mean: colour on the 0..1 scale that RandAugment fills with, by default a
        middle grey. ValueError for AutoAugment and RandAugment of images that are not uint8.
        """
        if self.rotate or self.shear:
            images = warp(images, generator, rotate=self.rotate, shear=self.shear, fill=self.fill, nearest=self.nearest)
        if self.pad:
            images = shift(images, self.pad, generator, fill=self.fill)
        if self.roll:
            images = roll(images, self.roll, generator)
        if self.flip:
            images = flip(images, generator)
        if self.rand_augment is not None:
            colour = tuple(min(255, round(255 * level)) for level in mean or (0.5,) * images.shape[1])
            return rand_augment(images, generator, self.rand_augment, fill=colour)
        return auto_augment(images, generator, self.auto_augment, fill=self.fill) if self.auto_augment else images

    def change_events(self, sequences: Tensor, generator: torch.Generator, *, frames: int) -> Tensor:
        """What sequences of `frames` event counts go through before `move`. uint8 or float [B, T * C, H, W] -> same."""
        if self.event_drop:
            sequences = drop_events(sequences, self.event_drop, generator, frames=frames)
        return wide_policy(sequences, generator) if self.event_policy else sequences

    def hide(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Images with erased patches, then with cutout, uint8 or float [B, C, H, W] -> same.

        Float noise is N(0, 1) and cutout is 0: use after norm.
        """
        if self.erase:
            images = erase(images, self.erase, generator, mode=self.erase_mode, count=self.erase_count)
        return cutout(images, self.cutout, generator) if self.cutout else images


def shift(images: Tensor, pad: int, generator: torch.Generator, *, fill: int = 0) -> Tensor:
    """Images moved by whole pixels in [-pad, pad], rows and columns apart; `fill` comes in. [B, C, H, W] -> same."""
    batch, channels, height, width = images.shape
    padded_BHWC = F.pad(images.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad), value=fill).contiguous()
    padded_height, padded_width = height + 2 * pad, width + 2 * pad
    device = images.device
    top, left = torch.randint(2 * pad + 1, (2, batch, 1), generator=generator, device=device)
    row = torch.arange(batch, device=device)[:, None] * padded_height + top + torch.arange(height, device=device)
    start = (row * padded_width + left) * channels  # [B, H], first element of every output row
    # All rows of W * C neighbours, as an overlapping view: picking rows from it copies each one in a single piece.
    windows = padded_BHWC.flatten().unfold(0, width * channels, 1)
    shifted = windows.index_select(0, start.flatten()).view(batch, height, width, channels)
    return shifted.permute(0, 3, 1, 2)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored left-right with probability 1/2 each. [B, C, H, W] -> same."""
    chosen = (torch.rand(len(images), generator=generator, device=images.device) < 0.5).nonzero().flatten()
    images_BHWC = images.permute(0, 2, 3, 1)
    mirrored = images_BHWC.index_select(0, chosen).flip(2)
    return images_BHWC.index_copy(0, chosen, mirrored).permute(0, 3, 1, 2)


def warp(
    images: Tensor,
    generator: torch.Generator,
    *,
    rotate: float = 0.0,
    shear: float = 0.0,
    fill: int = 0,
    nearest: bool = False,
) -> Tensor:
    """Images slanted sideways, then turned, both about their centre, `fill` outside. [B, C, H, W] -> same.

    rotate, shear: angles are drawn from [-rotate, rotate] and [-shear, shear], degrees. Bilinear, or `nearest`.
    """
    height, width = images.shape[-2:]
    angle, slant = (_angles(limit, images, generator) for limit in (rotate, shear))
    cos, sin, tan, zero = angle.cos(), angle.sin(), slant.tan(), torch.zeros_like(angle)
    # Where each pixel comes from: turned back, then slanted back.
    across = [cos + tan * sin, (tan * cos - sin) * height / width, zero]
    theta = torch.stack([*across, sin * width / height, cos, zero], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    above_fill = images.to(grid.dtype) - fill if fill else images.to(grid.dtype)
    mode = "nearest" if nearest else "bilinear"
    warped = F.grid_sample(above_fill, grid, mode=mode, padding_mode="zeros", align_corners=False)
    if fill:
        warped = warped.add_(fill)
    if not images.is_floating_point():
        warped = warped.round_().clamp_(0, 255)
    return warped.to(images.dtype).contiguous(memory_format=torch.channels_last)


def _angles(limit: float, images: Tensor, generator: torch.Generator) -> Tensor:
    """One angle in [-limit, limit] degrees for each image, in radians, [B]. Draws nothing for a limit of 0."""
    if not limit:
        return torch.zeros(len(images), device=images.device)
    draw = torch.rand(len(images), generator=generator, device=images.device)
    return (2 * draw - 1) * math.radians(limit)


def auto_augment(images: Tensor, generator: torch.Generator, policy: Policy, *, fill: int = 0) -> Tensor:
    """AutoAugment by that policy, bilinear, `fill` outside. uint8 [B, 1 or 3, H, W] -> same."""
    from torchvision.transforms import v2

    if images.dtype != torch.uint8:
        raise ValueError(f"auto_augment wants uint8 images, got {images.dtype}")
    # Where torchvision is given a fill it weighs border pixels twice; black comes in without.
    settings = {"interpolation": v2.InterpolationMode.BILINEAR, "fill": fill or None}
    change = v2.AutoAugment(v2.AutoAugmentPolicy(policy), **settings)
    with seeded(int(torch.randint(2**31, (), generator=generator, device=images.device))):
        changed = torch.stack([change(image) for image in images])
    return changed.contiguous(memory_format=torch.channels_last)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from `seed`; afterwards it is as before. For torchvision, which draws
    from no other.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def erase(
    images: Tensor, probability: float, generator: torch.Generator, *, mode: EraseMode = "pixel", count: int = 1
) -> Tensor:
    """Images in which, with `probability`, `count` rectangles hold noise, N(0, 1) or uniform bytes for uint8 (`pixel`),
    or 0 (`const`). [B, C, H, W] -> same.

    Sides are drawn from `PATCH_AREA` / count and `PATCH_RATIO` and cut to the image (Zhong et al. 2020).
    """
    device, (height, width) = images.device, images.shape[-2:]
    chosen, *draws = torch.rand(1 + 4 * count, len(images), generator=generator, device=device)
    selected = (chosen < probability).nonzero().flatten()
    mask = torch.zeros(len(selected), height, width, dtype=torch.bool, device=device)
    for area, ratio, top, left in zip(*[iter(draws)] * 4, strict=True):
        area = height * width / count * (PATCH_AREA[0] + area[selected] * (PATCH_AREA[1] - PATCH_AREA[0]))
        low, high = math.log(PATCH_RATIO[0]), math.log(PATCH_RATIO[1])
        ratio = (low + ratio[selected] * (high - low)).exp()
        sides = (area * ratio).sqrt(), (area / ratio).sqrt()
        mask |= box(*sides, top[selected], left[selected], (height, width))
    images_BHWC = images.permute(0, 2, 3, 1)
    kept = images_BHWC.index_select(0, selected)
    if mode == "const":
        hidden = kept.masked_fill(mask[..., None], 0)
    else:
        hidden = torch.where(mask[..., None], _noise(kept, generator), kept)
    return images_BHWC.index_copy(0, selected, hidden).permute(0, 3, 1, 2)


def _noise(images: Tensor, generator: torch.Generator) -> Tensor:
    """N(0, 1), or uniform bytes for uint8. Any shape -> same."""
    settings = {"generator": generator, "device": images.device, "dtype": images.dtype}
    return (
        torch.randn(images.shape, **settings)
        if images.is_floating_point()
        else torch.randint(256, images.shape, **settings)
    )


def cutout(images: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Images with one square of `side` pixels set to 0, cut off at the border. [B, C, H, W] -> same.

    Its centre is any pixel of the image, each as likely as the others (DeVries & Taylor 2017).
    """
    device, (height, width) = images.device, images.shape[-2:]
    inside = []
    for size in (height, width):
        centre = torch.randint(size, (len(images), 1), generator=generator, device=device)
        first, pixel = centre - side // 2, torch.arange(size, device=device)
        inside.append((pixel >= first) & (pixel < first + side))
    rows, columns = inside
    square_BHW1 = (rows[:, :, None] & columns[:, None, :])[..., None]
    return images.permute(0, 2, 3, 1).masked_fill(square_BHW1, 0).permute(0, 3, 1, 2)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images / 255 - mean) / std, uint8 or float [B, C, H, W] -> float32, same shape, channels-last memory."""
    batch, channels, height, width = images.shape
    scale = 1 / (255 * torch.tensor(std, device=images.device))
    offset = 255 * torch.tensor(mean, device=images.device) * scale
    # One long row for each image: a broadcast over three innermost channels is twice as slow.
    flat = images.permute(0, 2, 3, 1).reshape(batch, -1).to(torch.float32, copy=True)
    flat.mul_(scale.repeat(height * width)).sub_(offset.repeat(height * width))
    return flat.view(batch, height, width, channels).permute(0, 3, 1, 2)


def resize(images_NHWC: Tensor, size: int) -> Tensor:
    """Antialiased bilinear squares, uint8 [N, H, W, C] -> uint8 [N, size, size, C]. Aspect ratio is not kept."""
    if size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {size}")
    if tuple(images_NHWC.shape[1:3]) == (size, size):
        return images_NHWC
    images = images_NHWC.permute(0, 3, 1, 2)
    resized = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return resized.permute(0, 2, 3, 1).contiguous()


def channel_statistics(images_NHWC: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel on the 0..1 scale, exact, from uint8 [N, H, W, C]."""
    level = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in images_NHWC.unbind(-1):
        weight = torch.bincount(channel.flatten(), minlength=256).double() / channel.numel()
        mean = (weight * level).sum()
        means.append(mean.item())
        deviations.append((weight * (level - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)
