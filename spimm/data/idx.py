"""MNIST's four files as they are published, packed (.gz) or not: IDX, big-endian, a header of sizes and then bytes."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

PARTS = {"train": "train", "test": "t10k"}
LARGEST = 2**31
"""Bytes that one file may unpack to."""
FIRST_LABELS = {"mnist": bytes([5, 0, 4, 1, 9, 2, 1, 3, 1, 4]), "fashion-mnist": bytes([9, 0, 0, 3, 0, 2, 7, 2, 5, 5])}
"""The first training labels: files of both sets have the same names."""


class Idx(NamedTuple):
    """Images uint8 [N, H, W] and labels uint8 [N] of both parts, by part, and where they were found."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    folder: Path


def find_idx(name: str, class_name: str, root: Path) -> Path | None:
    """The folder with the four files of `mnist` or `fashion-mnist`: root/`class_name`/raw, where torchvision has them,
    root/`name`, or `root` unless its training labels begin as those of the other set; None where there is none.
    """
    own = (root / class_name / "raw", root / class_name, root / name)
    for folder in (*own, root / "raw", root):
        files = [_file(folder, stem) for stem in _stems()]
        if None not in files and (folder in own or _whose(folder) in (name, None)):
            return folder
    return None


def read_idx(folder: Path) -> Idx:
    """The four files in `folder`. ValueError names one that is damaged or of another kind."""
    images, labels = {}, {}
    for part, stem in PARTS.items():
        images[part] = _read(folder, f"{stem}-images-idx3-ubyte", 3)
        labels[part] = _read(folder, f"{stem}-labels-idx1-ubyte", 1)
    return Idx(images, labels, folder)


def _stems() -> list[str]:
    return [f"{stem}-{kind}" for stem in PARTS.values() for kind in ("images-idx3-ubyte", "labels-idx1-ubyte")]


def _file(folder: Path, stem: str) -> Path | None:
    return next((path for path in (folder / stem, folder / f"{stem}.gz") if path.is_file()), None)


def _whose(folder: Path) -> str | None:
    """The set that the training labels in `folder` begin as; None for another one."""
    path = _file(folder, f"{PARTS['train']}-labels-idx1-ubyte")
    try:
        with _opened(path) as file:
            first = file.read(8 + 10)[8:]
    except (OSError, EOFError, zlib.error):  # what is damaged is named when it is read
        return None
    return next((name for name, labels in FIRST_LABELS.items() if labels == first), None)


def _opened(path: Path | None) -> IO[bytes] | gzip.GzipFile:
    assert path is not None
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _read(folder: Path, stem: str, axes: int) -> np.ndarray:
    path = _file(folder, stem)
    assert path is not None
    try:
        with _opened(path) as file:
            magic, *shape = struct.unpack(f">{axes + 1}I", file.read(4 * (axes + 1)))
            if magic != 0x800 + axes or not 0 < math.prod(shape) <= LARGEST:
                raise ValueError(f"its header is {magic:#x} of sizes {shape}, expected {0x800 + axes:#x}")
            content = file.read(math.prod(shape) + 1)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as error:
        raise ValueError(f"{path} is no whole IDX file of {axes} axes of bytes: {error}") from error
    if len(content) != math.prod(shape):
        seen = "more" if len(content) > math.prod(shape) else len(content)
        raise ValueError(f"{path} is no whole IDX file: expected {math.prod(shape)} bytes after the header, got {seen}")
    return np.frombuffer(content, np.uint8).reshape(shape)
