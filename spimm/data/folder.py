"""Folders of images, one sub-folder per class, in torchvision's ImageFolder layout."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path

import torch

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.files import CROP_FRACTION, ImageFiles
from spimm.data.split import ImageSplit
from spimm.data.transforms import Interpolation

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEFAULT_SIZE = 224


def load_folder(
    root: Path,
    *,
    name: str,
    image_size: int | None = None,
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = CROP_FRACTION,
    corrupt: Corrupt = "refuse",
) -> ImageData:
    """The images under `root`/train and `root`/val (or test), read from disk as RGB squares of `image_size` (224).

    Normalised with ImageNet's statistics. interpolation, crop_fraction, corrupt: see `ImageFiles`. Raises
    FileNotFoundError for a missing folder and ValueError if the two parts have different classes.
    """
    from torchvision.datasets import ImageFolder

    held_out = held_out_part(root)
    parts = {part: ImageFolder(str(root / part)) for part in ("train", held_out)}
    classes = same_classes(root, {part: folder.classes for part, folder in parts.items()})
    size = DEFAULT_SIZE if image_size is None else image_size
    reading = {"interpolation": interpolation, "crop_fraction": crop_fraction, "corrupt": corrupt}
    files = partial(ImageFiles, size=size, **reading)
    train, test = (_split(folder.samples, files) for folder in parts.values())
    mean, std = IMAGENET_STATISTICS
    note = f"images of {root.name}/, test = its {held_out} folder"
    return ImageData(name=name, train=train, test=test, class_names=classes, mean=mean, std=std, note=note)


def held_out_part(root: Path) -> str:
    """The folder beside `root`/train, val or test. FileNotFoundError without both."""
    held_out = next((part for part in ("val", "test") if (root / part).is_dir()), None)
    if not (root / "train").is_dir() or held_out is None:
        raise FileNotFoundError(f"{root} must hold the folders train/ and val/ (or test/), one sub-folder per class")
    return held_out


def same_classes(root: Path, parts: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The classes of both parts, in order. ValueError that names the classes that only one of them has."""
    (train, classes), (held_out, others) = ((part, tuple(names)) for part, names in parts.items())
    if others != classes:
        different = sorted(set(classes) ^ set(others))
        raise ValueError(f"{root}: {train} and {held_out} must have the same classes, only one of them has {different}")
    return classes


def _split(samples: list[tuple[str, int]], files: Callable[[tuple[str, ...]], ImageFiles]) -> ImageSplit:
    paths, labels = zip(*samples, strict=True)
    return ImageSplit(files(paths), torch.tensor(labels))
