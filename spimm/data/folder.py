"""Folders of images, one sub-folder per class, in torchvision's ImageFolder layout, split or not."""

import logging
from collections.abc import Callable, Iterable, Mapping
from functools import cache, partial
from pathlib import Path

import torch

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.decode import suffixes
from spimm.data.files import CROP_FRACTION, ImageFiles
from spimm.data.held_out import held_out_split, share_text
from spimm.data.split import ImageSplit
from spimm.data.transforms import Interpolation
from spimm.data.tree import class_folders, labelled_files

logger = logging.getLogger("spimm.data")

IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
DEFAULT_SIZE = 224
HELD_OUT = ("val", "test")
FLAT_SHARE = 0.1
"""Share of a folder without a split that becomes its test images."""


def load_folder(
    root: Path,
    *,
    name: str,
    image_size: int | None = None,
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = CROP_FRACTION,
    corrupt: Corrupt = "refuse",
    val_share: float = 0.0,
    seed: int | None = None,
) -> ImageData:
    """The images below `root`, read from disk as RGB squares of `image_size` (224): see `decode` for their kinds.

    `root`/train/CLASS and `root`/val/CLASS (or test/CLASS) as they are split; with all three, val chooses the best
    epoch. `root`/CLASS alone is split by class and `seed`: a `val_share` (0.1 where it is 0) are its test images.
    Normalised with ImageNet's statistics. interpolation, crop_fraction, corrupt: see `ImageFiles`. Raises
    FileNotFoundError for a missing folder and ValueError if the parts have different classes.
    """
    reading = {"interpolation": interpolation, "crop_fraction": crop_fraction, "corrupt": corrupt}
    files = partial(ImageFiles, size=DEFAULT_SIZE if image_size is None else image_size, **reading)
    val: ImageSplit | None = None
    if is_flat(root):
        share = val_share or FLAT_SHARE
        listed = labelled_files(root, suffixes())
        classes, whole = tuple(listed), _split(listed, files)
        kept, held = held_out_split(whole.labels.numpy(), share, seed)
        train, test = whole.subset(kept), whole.subset(held)
        note = f"images of {root.name}/, {len(held)} of them held out as test images, {share_text(share, seed)}"
        tell_of_split(str(root), len(held), len(whole), share_text(share, seed))
    else:
        names = ("train", *held_out_parts(root))
        parts = {part: labelled_files(root / part, suffixes()) for part in names}
        classes = same_classes(root, parts)
        train, *others = (_split(listed, files) for listed in parts.values())
        test, val = others[-1], others[0] if len(others) == 2 else None
        note = f"images of {root.name}/, test = its {names[-1]} folder" + (", val = its val folder" if val else "")
    mean, std = IMAGENET_STATISTICS
    return ImageData(name=name, train=train, test=test, class_names=classes, mean=mean, std=std, note=note, val=val)


def is_flat(root: Path) -> bool:
    """Whether `root` holds folders of classes and none named train, val or test."""
    return bool(class_folders(root)) and not any((root / part).is_dir() for part in ("train", *HELD_OUT))


def held_out_parts(root: Path) -> tuple[str, ...]:
    """The folders beside `root`/train: val, test, or both. FileNotFoundError without train and one of them."""
    found = tuple(part for part in HELD_OUT if (root / part).is_dir())
    if not (root / "train").is_dir() or not found:
        lone = next((part for part in ("train", *found) if (root / part).is_dir()), None)
        advice = f"; {root / lone} as the data set is split by val_share" if lone else ", or one sub-folder per class"
        raise FileNotFoundError(
            f"{root} must hold the folders train/ and val/ (or test/), one sub-folder per class{advice}"
        )
    return found


def same_classes(root: Path, parts: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """The classes of all parts, in order. ValueError that names the classes that only one of two parts has."""
    (train, classes), *others = ((part, tuple(names)) for part, names in parts.items())
    for part, names in others:
        if names != classes:
            different = sorted(set(classes) ^ set(names))
            raise ValueError(
                f"{root}: {train} and {part} must have the same classes, only one of them has {_few(different)}"
            )
    return classes


def _few(names: list[str], count: int = 6) -> str:
    return f"{names[:count]}" + (f" and {len(names) - count} more" if len(names) > count else "")


@cache
def tell_of_split(root: str, held: int, whole: int, how: str) -> None:
    """Says once how a folder without a split of its own is split."""
    logger.warning(
        "%s has no train/ and val/: %d of its %d files are held out as test images, %s", root, held, whole, how
    )


def _split(listed: Mapping[str, list[str]], files: Callable[[tuple[str, ...]], ImageFiles]) -> ImageSplit:
    paths = tuple(path for names in listed.values() for path in names)
    labels = [label for label, names in enumerate(listed.values()) for _ in names]
    return ImageSplit(files(paths), torch.tensor(labels))
