"""One split of a data set: images in memory or on disk, or sequences of frames in memory, and their labels.

Legend: N images or sequences in the split, B of them per read, T frames, C channels, H W space.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from spimm.data.files import ImageFiles


@dataclass(frozen=True, eq=False)
class ImageSplit:
    """Map-style data set of labelled images or sequences: `split[k]` is (uint8 [C, H, W] or [T, C, H, W], int).

    images: uint8 [N, H, W, C] or sequences [N, H, W, T, C] held in memory, or `ImageFiles` decoded when read.
    labels: int64 [N], not negative.
    """

    images: Tensor | ImageFiles
    labels: Tensor

    def __post_init__(self) -> None:
        if isinstance(self.images, Tensor) and (self.images.dtype != torch.uint8 or self.images.dim() not in (4, 5)):
            seen = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images must be uint8 [N, H, W, C] or [N, H, W, T, C], got {seen}")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise ValueError(f"labels must be int64 [N], got {self.labels.dtype} {list(self.labels.shape)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"images and labels must agree in length, got {len(self.images)} and {len(self.labels)}")
        if len(self.labels) == 0:
            raise ValueError("a split must hold at least one image, got none")
        if isinstance(self.images, Tensor) and self.images.numel() == 0:
            raise ValueError(f"images must have at least one pixel, got {list(self.images.shape)}")
        if int(self.labels.min()) < 0:
            where = int(self.labels.argmin())
            raise ValueError(f"labels must not be negative, got {int(self.labels[where])} at index {where}")

    @classmethod
    def from_arrays(cls, images: np.ndarray, labels: np.ndarray) -> "ImageSplit":
        """A split in memory from uint8 [N, H, W], [N, H, W, C] or [N, H, W, T, C] and integer labels [N]."""
        if images.dtype != np.uint8 or images.ndim not in (3, 4, 5):
            wanted, seen = "[N, H, W], [N, H, W, C] or [N, H, W, T, C]", f"{images.dtype} {list(images.shape)}"
            raise ValueError(f"images must be uint8 {wanted}, got {seen}")
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"labels must be integers, got {labels.dtype} {list(labels.shape)}")
        with_channels = images[..., None] if images.ndim == 3 else images
        # torch cannot share memory with a read-only or a reversed array, so those are copied.
        return cls(
            torch.from_numpy(np.require(with_channels, requirements=["C", "W"])),
            torch.from_numpy(labels.astype(np.int64)),
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must lie in [{-len(self)}, {len(self)}), got {index}")
        position = torch.tensor([index % len(self)])
        image = self.read(position)[0]
        return image if self.frames is None else image.unflatten(0, (self.frames, -1)), int(self.labels[index])

    @property
    def in_chans(self) -> int:
        return self.images.shape[-1] if isinstance(self.images, Tensor) else 3

    @property
    def frames(self) -> int | None:
        """T of the sequences, None for images."""
        return self.images.shape[3] if isinstance(self.images, Tensor) and self.images.dim() == 5 else None

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image read."""
        if isinstance(self.images, Tensor):
            return self.images.shape[1], self.images.shape[2]
        return self.images.size, self.images.size

    @property
    def corrupt(self) -> list[str]:
        """Image files found to be corrupt so far."""
        if isinstance(self.images, Tensor):
            return []
        return [self.images.paths[index] for index in self.images.bad.nonzero().flatten().tolist()]

    def name(self, index: int) -> str:
        """The path of image `index`, or its number in the split."""
        return f"image {index}" if isinstance(self.images, Tensor) else self.images.paths[index]

    def subset(self, indices: Sequence[int] | Tensor | np.ndarray) -> "ImageSplit":
        """The images at `indices` (integers in [0, N), repeats allowed), in that order."""
        index = torch.as_tensor(indices)
        if index.dim() != 1 or not len(index) or index.is_floating_point() or index.dtype == torch.bool:
            raise ValueError(f"indices must be a non-empty list of integers, got {index.dtype} {list(index.shape)}")
        if int(index.min()) < 0 or int(index.max()) >= len(self):
            seen = f"{int(index.min())} to {int(index.max())}"
            raise ValueError(f"indices must lie in [0, {len(self)}), got {seen}")
        index = index.long()
        kept = self.images[index] if isinstance(self.images, Tensor) else self.images.subset(index.tolist())
        return ImageSplit(kept, self.labels[index])

    def read(
        self,
        indices: Tensor,
        *,
        crop_scale: tuple[float, float] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The images at `indices` (int64 [B]): uint8 [B, C, H, W], channels-last memory. Sequences: [B, T * C, H, W].

        crop_scale, generator: see `ImageFiles.read`; images in memory have one size and take no crop. In the place of a
        corrupt file, where `ImageFiles.corrupt` skips it, stands the next one of the same class.
        """
        if isinstance(self.images, ImageFiles):
            drawn = {"crop_scale": crop_scale, "generator": generator}
            return self.images.read(indices.tolist(), **drawn, instead=self._next_of_class)
        if crop_scale is not None:
            raise ValueError(f"crop_scale is for image files, got {crop_scale} for images in memory")
        return self.images.index_select(0, indices).flatten(3).permute(0, 3, 1, 2)

    def decoded(self, indices: Tensor) -> Tensor:
        """Which of the images at `indices` (int64 [B]), once read, were not corrupt: bool [B]."""
        if isinstance(self.images, Tensor):
            return torch.ones_like(indices, dtype=torch.bool)
        return ~self.images.bad[indices]

    @cached_property
    def _next_of_class(self) -> Tensor:
        """Index of the next image with the same label, from the last the first, int64 [N]."""
        order = torch.argsort(self.labels, stable=True)
        last = torch.cat([self.labels[order].diff() != 0, torch.ones(1, dtype=torch.bool)])  # of its class
        after = order.roll(-1)
        after[last] = order[last.roll(1)]
        following = torch.empty_like(order)
        following[order] = after
        return following
