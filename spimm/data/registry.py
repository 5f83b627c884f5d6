"""From a short text to a data set: `digits`, `cifar10`, `npz:FILE`, `events:FILE`, `folder:PATH`."""

import difflib
import os
from pathlib import Path

from spimm.data.dataset import ImageData
from spimm.data.events import Bins, load_events
from spimm.data.folder import load_folder
from spimm.data.folds import take_fold
from spimm.data.packed import load_npz
from spimm.data.static import TORCHVISION_SETS, load_digits, load_torchvision

NAMES = ("digits", *TORCHVISION_SETS, "imagefolder")
PREFIXES = ("npz", "events", "folder")


def list_data() -> tuple[str, ...]:
    """The forms that `load_data` understands."""
    return (*NAMES, "npz:FILE", "events:FILE", "folder:PATH")


def load_data(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    train_fraction: float | None = None,
    split_seed: int | None = None,
    frames: int | None = None,
    bins: Bins = "time",
    fold: int | None = None,
    folds: int = 5,
    download: bool = False,
) -> ImageData:
    """The data set that `spec` names (see `list_data`).

    data_dir: folder with the files, by default the environment variable SPIMM_DATA; `digits` needs none, `imagefolder`
    is that folder itself, relative paths after a colon start there. image_size: resize to squares, in pixels; events
    keep the sensor's size. train_fraction, split_seed: only for `digits`, which has no official split. frames, bins:
    only for `events:`, which needs frames; see `load_events`. fold: in place of the split the set comes with, fold
    `fold` of `folds` over all its images; see `take_fold`. download: torchvision may fetch a set that is missing from
    data_dir.
    """
    name = _checked_name(spec)
    if (name == "events") != (frames is not None):
        wanted = "frames=T, the frames to bin each recording into" if name == "events" else "no frames: only events do"
        raise ValueError(f"{spec} takes {wanted}, got frames={frames}")
    if name == "events" and image_size is not None:
        raise ValueError(f"{spec} keeps the size of its sensor, got image_size={image_size}")
    if name != "digits" and (train_fraction is not None or split_seed is not None):
        seen = f"train_fraction={train_fraction}, split_seed={split_seed}"
        raise ValueError(f"{spec} has its own split, which {seen} cannot change; only digits takes them")
    if name == "digits":
        data = load_digits(image_size=image_size, train_fraction=train_fraction, seed=split_seed)
    elif name in TORCHVISION_SETS:
        root = _data_folder(spec, data_dir, may_create=download)
        data = load_torchvision(name, root, image_size=image_size, download=download)
    elif name == "imagefolder":
        data = load_folder(_data_folder(spec, data_dir), name=spec, image_size=image_size)
    elif frames is not None:
        data = load_events(_file(spec, data_dir), name=spec, frames=frames, bins=bins)
    else:
        data = (load_npz if name == "npz" else load_folder)(_file(spec, data_dir), name=spec, image_size=image_size)
    return data if fold is None else take_fold(data, fold=fold, folds=folds)


def _checked_name(spec: str) -> str:
    """What stands before the colon."""
    name, colon, path = spec.partition(":")
    if name not in (*NAMES, *PREFIXES) or (name in NAMES and colon):
        raise ValueError(f"unknown data set {spec!r}{_nearest(name)}; known: {', '.join(list_data())}")
    if name in PREFIXES and not path:
        raise ValueError(f"{spec!r} lacks a path, wanted {name}:PATH")
    return name


def _file(spec: str, data_dir: str | Path | None) -> Path:
    """The path after the colon."""
    target = Path(spec.partition(":")[2]).expanduser()
    return target if target.is_absolute() else _data_folder(spec, data_dir) / target


def _data_folder(spec: str, data_dir: str | Path | None, *, may_create: bool = False) -> Path:
    chosen = os.environ.get("SPIMM_DATA") if data_dir is None else data_dir
    both_ways = "pass data_dir=FOLDER or set the environment variable SPIMM_DATA"
    if not chosen:
        raise FileNotFoundError(f"{spec} needs a data folder and none is given: {both_ways}")
    folder = Path(chosen).expanduser()
    if not folder.is_dir() and not may_create:
        raise FileNotFoundError(f"{spec} needs a data folder and {folder} is none: {both_ways}")
    return folder


def _nearest(name: str) -> str:
    matches = difflib.get_close_matches(name.lower(), (*NAMES, *PREFIXES), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""
