"""A whole image data set: two splits and what a model and a loader need to know about them."""

from dataclasses import dataclass

from torch import Tensor

from spimm.data.split import ImageSplit
from spimm.data.transforms import channel_statistics, resize


@dataclass(frozen=True, eq=False)
class ImageData:
    """Train and test images, or sequences of frames, of one size, with class names and normalisation.

    mean, std: per channel on the 0..1 scale. note: where the images and the split come from, and what to say beside a
    number measured on them.
    """

    name: str
    train: ImageSplit
    test: ImageSplit
    class_names: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    note: str
    left_out: tuple[str, ...] = ()
    """Corrupt images or recordings that are in neither split."""
    val: ImageSplit | None = None
    """Images that choose the best epoch, neither trained on nor test images; None where no epoch is chosen."""

    def __post_init__(self) -> None:
        for part, split in self.parts.items():
            if (self.train.in_chans, self.train.size) != (split.in_chans, split.size):
                seen = f"{self.train.in_chans} x {self.train.size} and {split.in_chans} x {split.size}"
                raise ValueError(
                    f"{self.name}: train and {part} images must have one shape, got channels x (H, W) {seen}"
                )
            if self.train.frames != split.frames:
                seen = f"{self.train.frames} and {split.frames}"
                raise ValueError(
                    f"{self.name}: train and {part} sequences must have the same number of frames, got {seen}"
                )
        if not len(self.mean) == len(self.std) == self.in_chans:
            raise ValueError(f"{self.name}: mean and std need {self.in_chans} values, got {self.mean} and {self.std}")
        if min(self.std) <= 0:
            raise ValueError(f"{self.name}: std must be positive (is a channel constant?), got {self.std}")
        for part, split in self.parts.items():
            highest = int(split.labels.max())
            if highest >= self.num_classes:
                wanted = f"[0, {self.num_classes}) for {self.num_classes} classes"
                raise ValueError(f"{self.name}: {part} labels must lie in {wanted}, got {highest}")

    @property
    def parts(self) -> dict[str, ImageSplit]:
        """train, test and, where there is one, val."""
        return {"train": self.train, "test": self.test} | ({} if self.val is None else {"val": self.val})

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def in_chans(self) -> int:
        return self.train.in_chans

    @property
    def frames(self) -> int | None:
        """T of every sequence, None for images."""
        return self.train.frames

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.train.size


def in_memory(
    name: str,
    train: ImageSplit,
    test: ImageSplit,
    *,
    note: str,
    class_names: tuple[str, ...] | None = None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    image_size: int | None = None,
) -> ImageData:
    """An `ImageData` from splits in memory, resized to squares of `image_size` if given.

    class_names: None numbers the classes from 0 to the largest training label. statistics: (mean, std); None computes
    both from the training images as the model sees them.
    """
    if image_size is not None:
        train, test = _resized(train, image_size), _resized(test, image_size)
    if class_names is None:
        class_names = tuple(str(label) for label in range(int(train.labels.max()) + 1))
    if statistics is None:
        assert isinstance(train.images, Tensor)
        statistics = channel_statistics(train.images)
    mean, std = statistics
    return ImageData(name=name, train=train, test=test, class_names=class_names, mean=mean, std=std, note=note)


def _resized(split: ImageSplit, image_size: int) -> ImageSplit:
    assert isinstance(split.images, Tensor)
    return ImageSplit(resize(split.images, image_size), split.labels)
