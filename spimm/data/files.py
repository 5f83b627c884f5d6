"""Images left on disk and decoded when read: the path-backed half of an `ImageSplit`.

Legend: B images per read, H = W = size, C = 3 (always RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spimm.data.transforms import seeded

# Evaluation resizes the shorter side to size * 256 / 224 and keeps the centre: the usual ImageNet protocol.
RESIZE_RATIO = 256 / 224


@dataclass(frozen=True)
class ImageFiles:
    """Image files read as squares of `size` pixels."""

    paths: tuple[str, ...]
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int]) -> "ImageFiles":
        """The same files in the order of `indices`."""
        return ImageFiles(paths=tuple(self.paths[index] for index in indices), size=self.size)

    def read(
        self,
        indices: Sequence[int],
        *,
        crop_scale: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Decoded images, uint8 [B, C, H, W] in channels-last memory.

        crop_scale: area range of a random resized crop, drawn for each image from `generator`; None resizes and keeps
        the centre. Raises ValueError naming the file that cannot be decoded.
        """
        images_BHWC = torch.empty(len(indices), self.size, self.size, 3, dtype=torch.uint8)
        seeds = torch.randint(2**31, (len(indices),), generator=generator).tolist() if crop_scale else []
        for row, index in enumerate(indices):
            image = _decode(self.paths[index])
            image = _random_crop(image, self.size, crop_scale, seeds[row]) if crop_scale else _centre(image, self.size)
            images_BHWC[row] = torch.from_numpy(np.array(image))
        return images_BHWC.permute(0, 3, 1, 2)


def _decode(path: str) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"{path} cannot be decoded as an image: {error}") from error


def _centre(image: Image.Image, size: int) -> Image.Image:
    from torchvision.transforms import v2

    return v2.CenterCrop(size)(v2.Resize(round(size * RESIZE_RATIO), antialias=True)(image))


def _random_crop(image: Image.Image, size: int, scale: tuple[float, float], seed: int) -> Image.Image:
    from torchvision.transforms import v2

    with seeded(seed):
        return v2.RandomResizedCrop(size, scale=scale, antialias=True)(image)
