"""Batches whose order and augmentation depend on (seed, epoch, batch index) and not on the ranks that share them.

Legend: B images or sequences per batch, T frames, C channels, H W space, N images in the split.
"""

import warnings
from collections.abc import Iterator
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from spimm.data.mix import Mix
from spimm.data.split import ImageSplit
from spimm.data.transforms import Augment, normalize

Batch = tuple[Tensor, Tensor]

DEFAULT_CROP_SCALE = (0.08, 1.0)
# First word of every seed, so that the order and the augmentation never share a stream.
_ORDER, _AUGMENT = 1, 2


@dataclass(frozen=True, eq=False)
class Loader:
    """Normalised batches of a split: (float32 [B, C, H, W] in channels-last memory, int64 [B]).

    Sequences give [B, T, C, H, W] in (T, B, H, W, C) memory; all frames of one share what augmentation draws.
    batch_size: images per batch and rank. mean, std: per channel on the 0..1 scale. augment: None for evaluation.
    mix: mixup and CutMix of what augmentation gives; labels become probabilities, float32 [B, K], where it is on.
    shuffle: a new order every epoch. repeats: every image of a training epoch comes that often, within one global batch
    (or two, where repeats does not divide it) and copy after copy, so that ranks augment copies of their own; an epoch
    has N images all the same, N / repeats different ones (Hoffer et al. 2020). drop_last: leave out the images that do
    not fill a batch on every rank.
    num_workers: processes that prepare batches, worth their cost for image files; the batches do not depend on it.
    rank, world_size: the ranks share each global batch of world_size * batch_size images, without overlap. Every rank
    gets the same number of batches; without drop_last the last two may be smaller.
    parts: equal parts of a global batch that are augmented and mixed each on its own. A rank prepares every part that
    it has images of: with fewer parts than ranks, more images than it gives.
    Corrupt files that are skipped leave training batches as large as they are, the next image of the class coming
    twice, and are left out of those for evaluation.
    """

    split: ImageSplit
    batch_size: int
    _: KW_ONLY
    mean: tuple[float, ...]
    std: tuple[float, ...]
    augment: Augment | None = None
    mix: Mix | None = None
    shuffle: bool = False
    repeats: int = 1
    drop_last: bool = False
    seed: int = 0
    num_workers: int = 0
    rank: int = 0
    world_size: int = 1
    parts: int = 1

    def __post_init__(self) -> None:
        for name, lowest in (("batch_size", 1), ("seed", 0), ("num_workers", 0), ("world_size", 1), ("repeats", 1)):
            if getattr(self, name) < lowest:
                raise ValueError(f"{name} must be at least {lowest}, got {getattr(self, name)}")
        if self.parts < 1 or self.batch_size * self.world_size % self.parts:
            together = self.batch_size * self.world_size
            raise ValueError(f"parts must divide the {together} images of a batch on all ranks, got {self.parts}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank must lie in [0, {self.world_size}), got {self.rank}")
        if not len(self.mean) == len(self.std) == self.split.in_chans:
            wanted = self.split.in_chans
            raise ValueError(f"mean and std need {wanted} values (channels), got {self.mean} and {self.std}")
        if self.augment and self.augment.crop_scale and isinstance(self.split.images, Tensor):
            raise ValueError(f"crop_scale is for image files, got {self.augment.crop_scale} for images in memory")
        if self.augment and self.augment.erase and self.split.frames is not None:
            raise ValueError(f"erase is for images, got {self.augment.erase} for sequences of frames")
        policies = ("auto_augment", "rand_augment") if self.augment else ()
        chosen = [name for name in policies if getattr(self.augment, name) is not None]
        if chosen and (self.split.frames or self.split.in_chans not in (1, 3)):
            seen = f"{self.split.in_chans} channels" + (f", {self.split.frames} frames" if self.split.frames else "")
            raise ValueError(f"{chosen[0]} is for images of 1 or 3 channels, got {seen}")
        if self.split.frames is None and self.augment and (self.augment.event_drop or self.augment.event_policy):
            seen = f"event_drop={self.augment.event_drop}, event_policy={self.augment.event_policy}"
            raise ValueError(f"event_drop and event_policy are for sequences of frames, got {seen} for images")
        if self.augment and self.augment.fill and self.split.frames is not None:
            raise ValueError(f"fill is for images, got {self.augment.fill} for sequences of frames")
        if self.repeats > 1 and not (self.shuffle and self.augment):
            raise ValueError(f"repeats is for training and wants shuffle and an augment, got {self.repeats} without")
        if self.mix and self.augment is None:
            raise ValueError(f"mix is for training and wants an augment, got {self.mix} without")
        smallest = min((stop - start for start, stop in map(self._bounds, range(len(self))[-2:])), default=0)
        if smallest < self.world_size:
            seen = f"{len(self.split)} images, batch_size {self.batch_size}, world_size {self.world_size}"
            raise ValueError(f"every rank must have an image in every batch, got {seen}, drop_last {self.drop_last}")

    def __len__(self) -> int:
        """Batches per epoch, the same on every rank."""
        images, together = len(self.split), self.batch_size * self.world_size
        return images // together if self.drop_last else -(-images // together)

    def __iter__(self) -> Iterator[Batch]:
        """Epoch 0, every time; training asks `iterate` for the epoch it wants."""
        return self.iterate(0)

    def iterate(self, epoch: int, start_batch: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from `start_batch` on, exactly as an uninterrupted run sees them.

        Batches before `start_batch` cost nothing.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        if not 0 <= start_batch <= len(self):
            raise ValueError(f"start_batch must lie in [0, {len(self)}], got {start_batch}")
        batches = _EpochBatches(self, epoch, self._order(epoch))
        remaining = range(start_batch, len(self))
        if self.num_workers == 0:
            return (batches[index] for index in remaining)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "This DataLoader will create", UserWarning)  # more workers than cores
            # Its own generator, because a DataLoader otherwise takes a number from the global one.
            workers = DataLoader(
                batches,
                batch_size=None,
                sampler=remaining,
                num_workers=min(self.num_workers, max(1, len(remaining))),
                collate_fn=_unchanged,
                generator=torch.Generator().manual_seed(self.seed),
            )
            return iter(workers)

    def names(self, epoch: int, index: int) -> list[str]:
        """What the images of batch `index` of an epoch are called, in its order: paths, or numbers in the split."""
        own = self._own(self._order(epoch), index)
        if self.augment is None:
            own = own[self.split.decoded(own)]
        return [self.split.name(number) for number in own.tolist()]

    def _own(self, order: Tensor, index: int) -> Tensor:
        """Indices of this rank's images in global batch `index`."""
        start, stop = self._bounds(index)
        first, end = ((stop - start) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        return order[start:stop][first:end]

    def _order(self, epoch: int) -> Tensor:
        """Indices of the split in the order of the epoch, the same on every rank. [N]"""
        if not self.shuffle:
            return torch.arange(len(self.split))
        order = torch.randperm(len(self.split), generator=_generator(_ORDER, self.seed, epoch))
        return order if self.repeats == 1 else self._repeated(order)

    def _repeated(self, order: Tensor) -> Tensor:
        """The first 1 / repeats of `order`, `repeats` times each: first copies of a batch, then second ones. [N]"""
        position = torch.arange(len(order))
        batch, copy = position // (self.batch_size * self.world_size), position % self.repeats
        return order[position // self.repeats][torch.argsort(batch * self.repeats + copy, stable=True)]

    def _bounds(self, index: int) -> tuple[int, int]:
        """Where global batch `index` starts and stops in the order.

        The last one takes images from the one before it if it has fewer images than there are ranks.
        """
        together, last = self.batch_size * self.world_size, len(self) - 1
        if self.drop_last or index < last - 1:
            return index * together, (index + 1) * together
        cut = min(last * together, max(len(self.split) - self.world_size, 0))
        return (cut, len(self.split)) if index == last else (index * together, cut)

    def _batch(self, order: Tensor, epoch: int, index: int) -> Batch:
        if self.augment is None:
            own = self._own(order, index)
            images = self._normalized(self.split.read(own))
            kept = self.split.decoded(own)
            whole = bool(kept.all())
            return self._in_frames(images if whole else images[kept]), self.split.labels[own if whole else own[kept]]
        start, stop = self._bounds(index)
        chosen = order[start:stop]
        first, end = (len(chosen) * rank // self.world_size for rank in (self.rank, self.rank + 1))
        pieces = []
        for part in range(self.parts):
            low, high = (len(chosen) * border // self.parts for border in (part, part + 1))
            if low < end and first < high:
                generator = _generator(_AUGMENT, self.seed, epoch, index, part)
                images, labels = self._augmented(self.augment, chosen[low:high], epoch, generator)
                wanted = slice(max(first - low, 0), end - low)
                pieces.append((images[wanted], labels[wanted]))
        images, labels = pieces[0] if len(pieces) == 1 else map(torch.cat, zip(*pieces, strict=True))
        return self._in_frames(images), labels

    def _augmented(self, augment: Augment, chosen: Tensor, epoch: int, generator: torch.Generator) -> Batch:
        """The images at `chosen`, sequences as they are read, normalised and mixed."""
        labels = self.split.labels[chosen]
        crop_scale = None if isinstance(self.split.images, Tensor) else augment.crop_scale or DEFAULT_CROP_SCALE
        images = self.split.read(chosen, crop_scale=crop_scale, generator=generator)
        if self.split.frames is not None:
            images = augment.change_events(images, generator, frames=self.split.frames)
            images = images.float()  # a turned count is no integer
        images = self._normalized(augment.move(images, generator, mean=self.mean))
        images = augment.hide(images, generator)
        if self.mix is not None and self.mix.covers(epoch):
            images, labels = self.mix(images, labels, generator)
        return images, labels

    def _normalized(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W], or sequences as they are read, [B, T * C, H, W] -> same."""
        frames = self.split.frames or 1
        return normalize(images, self.mean * frames, self.std * frames)

    def _in_frames(self, images: Tensor) -> Tensor:
        """Images as they are; sequences as they are read, [B, T * C, H, W] -> [B, T, C, H, W]."""
        if self.split.frames is None:
            return images
        steps_TBHWC = images.unflatten(1, (self.split.frames, -1)).permute(1, 0, 3, 4, 2).contiguous()
        return steps_TBHWC.permute(1, 0, 4, 2, 3)


@dataclass(frozen=True, eq=False)
class _EpochBatches(Dataset[Batch]):
    """The batches of one epoch, by index."""

    loader: Loader
    epoch: int
    order: Tensor

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, index: int) -> Batch:
        return self.loader._batch(self.order, self.epoch, index)


def _generator(*words: int) -> torch.Generator:
    seed = np.random.SeedSequence(words).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(seed))


def _unchanged(batch: Any) -> Any:
    return batch
