"""Images left on disk and decoded when read: the path-backed half of an `ImageSplit`.

Legend: B images per read, H = W = size, C = 3 (always RGB).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spimm.data.corrupt import Corrupt
from spimm.data.decode import CorruptImage, decode, tell_of_frames
from spimm.data.transforms import Interpolation, seeded

# The usual ImageNet protocol for evaluation: the shorter side becomes 256, of which 224 are kept.
CROP_FRACTION = 224 / 256


@dataclass(frozen=True)
class ImageFiles:
    """Image files read as squares of `size` pixels.

    interpolation: of every change of size. crop_fraction: share of the shorter side that stays in evaluation, which
    resizes to size / crop_fraction and keeps the centre. corrupt: what becomes of files that cannot be decoded, which
    shows when they are read: a scan of a million files would take hours.
    """

    paths: tuple[str, ...]
    size: int
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = CROP_FRACTION
    corrupt: Corrupt = "refuse"
    bad: Tensor = field(init=False, repr=False, compare=False)
    """Files found to be corrupt so far, bool [N]; under skip in memory that loader processes share."""
    told: Tensor = field(init=False, repr=False, compare=False)
    """Whether it was said that of images of several frames the first is read, bool [], in memory that they share."""

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {self.size}")
        if self.interpolation not in get_args(Interpolation):
            raise ValueError(f"interpolation must be bilinear or bicubic, got {self.interpolation!r}")
        if not 0 < self.crop_fraction <= 1:
            raise ValueError(f"crop_fraction must lie in (0, 1], got {self.crop_fraction}")
        if self.corrupt not in get_args(Corrupt):
            raise ValueError(f"corrupt must be refuse or skip, got {self.corrupt!r}")
        bad = torch.zeros(len(self.paths), dtype=torch.bool)
        object.__setattr__(self, "bad", bad.share_memory_() if self.corrupt == "skip" else bad)
        object.__setattr__(self, "told", torch.zeros((), dtype=torch.bool).share_memory_())

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Sequence[int]) -> "ImageFiles":
        """The same files in the order of `indices`."""
        return replace(self, paths=tuple(self.paths[index] for index in indices))

    def read(
        self,
        indices: Sequence[int],
        *,
        crop_scale: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
        instead: Tensor | None = None,
    ) -> Tensor:
        """Decoded images, uint8 [B, C, H, W] in channels-last memory.

        crop_scale: area range of a random resized crop, drawn for each image from `generator`; None resizes and keeps
        the centre. instead: int64 [N], the file read in the place of each that is corrupt, under corrupt="skip".
        Raises CorruptImage, a ValueError, naming the file that cannot be decoded and has none in its place.
        """
        images_BHWC = torch.empty(len(indices), self.size, self.size, 3, dtype=torch.uint8)
        seeds = torch.randint(2**31, (len(indices),), generator=generator).tolist() if crop_scale else []
        for row, index in enumerate(indices):
            image = self._decode_or_next(index, instead)
            image = self._random_crop(image, crop_scale, seeds[row]) if crop_scale else self._centre(image)
            images_BHWC[row] = torch.from_numpy(np.array(image))
        return images_BHWC.permute(0, 3, 1, 2)

    def _decode_or_next(self, index: int, instead: Tensor | None) -> Image.Image:
        tried = index
        while True:
            try:
                return decode(self.paths[tried], several=self._tell_of_frames)
            except CorruptImage:
                self.bad[tried] = True
                if self.corrupt == "refuse" or instead is None or instead[tried] == index:
                    raise
                tried = int(instead[tried])

    def _tell_of_frames(self, path: str) -> None:
        if not self.told:
            self.told.fill_(True)
            tell_of_frames(path)

    def _centre(self, image: Image.Image) -> Image.Image:
        from torchvision.transforms import v2

        side = round(self.size / self.crop_fraction)
        mode = v2.InterpolationMode(self.interpolation)
        return v2.CenterCrop(self.size)(v2.Resize(side, interpolation=mode, antialias=True)(image))

    def _random_crop(self, image: Image.Image, scale: tuple[float, float], seed: int) -> Image.Image:
        from torchvision.transforms import v2

        mode = v2.InterpolationMode(self.interpolation)
        with seeded(seed):
            return v2.RandomResizedCrop(self.size, scale=scale, interpolation=mode, antialias=True)(image)
