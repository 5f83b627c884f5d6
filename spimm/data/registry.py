"""From a short text to a data set: `digits`, `cifar10`, `npz:FILE`, `folder:PATH`."""

import difflib
import os
from pathlib import Path

from spimm.data.dataset import ImageData
from spimm.data.folder import load_folder
from spimm.data.packed import load_npz
from spimm.data.static import TORCHVISION_SETS, load_digits, load_torchvision

NAMES = ("digits", *TORCHVISION_SETS, "imagefolder")
PREFIXES = ("npz", "folder")


def list_data() -> tuple[str, ...]:
    """The forms that `load_data` understands."""
    return (*NAMES, "npz:FILE", "folder:PATH")


def load_data(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    train_fraction: float | None = None,
    split_seed: int | None = None,
    download: bool = False,
) -> ImageData:
    """The data set that `spec` names (see `list_data`).

    data_dir: folder with the files, by default the environment variable SPIMM_DATA; `digits` needs none, `imagefolder`
    is that folder itself, relative paths after `npz:` and `folder:` start there. image_size: resize to squares, in
    pixels. train_fraction, split_seed: only for `digits`, which has no official split. download: torchvision may fetch
    a set that is missing from data_dir.
    """
    name, colon, path = spec.partition(":")
    if name not in (*NAMES, *PREFIXES) or (name in NAMES and colon):
        raise ValueError(f"unknown data set {spec!r}{_nearest(name)}; known: {', '.join(list_data())}")
    if name in PREFIXES and not path:
        raise ValueError(f"{spec!r} lacks a path, wanted {name}:PATH")
    if name == "digits":
        return load_digits(image_size=image_size, train_fraction=train_fraction, seed=split_seed)
    if train_fraction is not None or split_seed is not None:
        seen = f"train_fraction={train_fraction}, split_seed={split_seed}"
        raise ValueError(f"{spec} has its own split, which {seen} cannot change; only digits takes them")
    if name in TORCHVISION_SETS:
        root = _data_folder(spec, data_dir, may_create=download)
        return load_torchvision(name, root, image_size=image_size, download=download)
    if name == "imagefolder":
        return load_folder(_data_folder(spec, data_dir), name=spec, image_size=image_size)
    target = Path(path).expanduser()
    if not target.is_absolute():
        target = _data_folder(spec, data_dir) / target
    return (load_npz if name == "npz" else load_folder)(target, name=spec, image_size=image_size)


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
