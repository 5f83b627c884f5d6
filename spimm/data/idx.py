"""MNIST's four files as they are published, packed (.gz) or not: IDX, big-endian, a header of sizes and then bytes."""

import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

PARTS = {"train": "train", "test": "t10k"}
LARGEST = 2**31
"""Bytes that one file may unpack to."""
FOREIGN = {
    "mnist": "25c81989df183df01b3e8a0aad5dffbe",
    "fashion-mnist": "d53e105ee54ea40749a09fcbcd1e9432",
}
"""Set -> MD5 of the packed training labels of the other one, whose files have the same names."""


class Idx(NamedTuple):
    """Images uint8 [N, H, W] and labels uint8 [N] of both parts, by part, and where they were found."""

    images: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    folder: Path


def find_idx(name: str, class_name: str, root: Path) -> Path | None:
    """The folder with the four files of `mnist` or `fashion-mnist`: root/`class_name`/raw, where torchvision has them,
    root/`name`, or `root` unless its files are those of the other set; None where there is none.
    """
    own = (root / class_name / "raw", root / class_name, root / name)
    for folder in (*own, root / "raw", root):
        files = [_file(folder, stem) for stem in _stems()]
        if None not in files and (folder in own or FOREIGN[name] not in map(_digest, files)):
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


def _digest(path: Path | None) -> str:
    """MD5 of a small file, such as packed labels."""
    small = path is not None and path.stat().st_size < 2**16
    return hashlib.md5(path.read_bytes()).hexdigest() if path is not None and small else ""


def _read(folder: Path, stem: str, axes: int) -> np.ndarray:
    path = _file(folder, stem)
    assert path is not None
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
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
