"""HAR-DVS: 300 activities as grey images of events, made into two channels of 0 and 1 (Wang et al. 2024).

Below har-dvs/: action_NNN/RECORDING/ with its images, and train_label.txt and test_label.txt, whose lines begin with
action_NNN/RECORDING; without these two files, {train,test}/CLASS/RECORDING/.

Legend: H W space, T frames, C = 2 channels.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.decode import CorruptImage, decode
from spimm.data.frame_cache import FrameWriter, Shape
from spimm.data.framed import below, fingerprint, load_framed, refusal, refuse_or_skip
from spimm.data.tree import class_folders, passed_over
from spimm.reading import read_text

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp")
PARTS = ("train", "test")
# Levels of 0 to 255 below which a pixel is an event of channel 0, and above and up to which one of channel 1: 0.12, 0.3
# and 0.78 of white in the loader of Spike-driven Transformer's authors.
DARK, BRIGHT = 0.12 * 255, (0.3 * 255, 0.78 * 255)


class Images(NamedTuple):
    """A labelled recording: its images in the order of time."""

    paths: tuple[Path, ...]
    label: int


def load_har_dvs(
    root: Path,
    *,
    name: str,
    frames: int,
    image_size: int | None = None,
    corrupt: Corrupt = "refuse",
    cache_dir: str | Path | None = None,
) -> ImageData:
    """Sequences of `frames` images, spread evenly where a recording has more, and followed by empty ones if fewer.

    image_size: resize grey images to squares, in pixels; None wants all to have one size. Other settings and errors as
    in `load_framed`.
    """
    classes, listed = _listed(root)
    size = None if image_size is None else (image_size, image_size)

    def shape() -> Shape:
        height, width = size or decode(str(listed["train"][0].paths[0])).size[::-1]
        return height, width, frames, 2

    facts = {
        "frames": frames,
        "size": size,
        "items": {
            part: [[item.label, [fingerprint(path, root) for path in item.paths]] for item in items]
            for part, items in listed.items()
        },
    }
    return load_framed(
        name,
        {part: partial(_frame, items, frames, corrupt) for part, items in listed.items()},
        shape,
        facts,
        class_names=classes,
        statistics=((0.0, 0.0), (1 / 255, 1 / 255)),
        note=f"images of {root.name}/, {frames} frames of dark and of bright events, split by its lists",
        corrupt=corrupt,
        cache_dir=cache_dir,
    )


def events_of_grey(grey: np.ndarray) -> np.ndarray:
    """0 and 1 where grey images have events, uint8 [..., H, W] -> uint8 [..., H, W, 2]."""
    return np.stack([grey < DARK, (grey > BRIGHT[0]) & (grey <= BRIGHT[1])], axis=-1).astype(np.uint8)


def _frame(items: Sequence[Images], frames: int, corrupt: Corrupt, writer: FrameWriter) -> None:
    height, width = writer.shape[:2]
    for paths, label in items:
        chosen = [paths[step * len(paths) // frames] for step in range(frames)] if len(paths) > frames else paths
        sequence = np.zeros((1, *writer.shape), dtype=np.uint8)
        try:
            for step, path in enumerate(chosen):
                sequence[0, :, :, step] = events_of_grey(_grey(path, height, width))
        except CorruptImage as error:
            refuse_or_skip(writer, str(error).removesuffix(refusal("")), corrupt)
            continue
        writer.add(sequence, [label])


def _grey(path: Path, height: int, width: int) -> np.ndarray:
    """uint8 [H, W], resized bilinearly."""
    image = decode(str(path)).convert("L")
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image)


def _listed(root: Path) -> tuple[tuple[str, ...], dict[str, list[Images]]]:
    """Class names, and the recordings of train and test."""
    lists = {part: root / f"{part}_label.txt" for part in PARTS}
    if all(path.is_file() for path in lists.values()):
        folders = {
            part: [below(root, line.split()[0]) for line in read_text(path).splitlines() if line.strip()]
            for part, path in lists.items()
        }
    else:
        folders = {
            part: [path for action in class_folders(root / part) for path in class_folders(action)] for part in PARTS
        }
    classes = sorted({folder.parent.name for folder in folders["train"]})
    known = {name: label for label, name in enumerate(classes)}
    listed = {}
    for part, found in folders.items():
        if not found:
            raise FileNotFoundError(f"{root} must hold train_label.txt and test_label.txt, or {part}/CLASS/RECORDING/")
        unknown = sorted({folder.parent.name for folder in found} - known.keys())
        if unknown:
            raise ValueError(f"{root}: test has the classes {unknown}, which train has not")
        listed[part] = [Images(_images(folder), known[folder.parent.name]) for folder in found]
    return tuple(classes), listed


def _images(folder: Path) -> tuple[Path, ...]:
    """Images in the order of their numbers. FileNotFoundError where there is none."""
    names = folder.iterdir() if folder.is_dir() else ()
    found = [path for path in names if path.suffix.lower() in SUFFIXES and not passed_over(path.name)]
    if not found:
        raise FileNotFoundError(f"{folder} must hold the images of a recording ({' '.join(SUFFIXES)})")
    return tuple(sorted(found, key=lambda path: (len(path.stem), path.stem)))
