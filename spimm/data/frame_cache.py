"""Frames on disk: built once, checked and mapped into memory afterwards.

A file holds the frames of one part after another, a description in JSON, its length and checksum, and MAGIC.

Legend: N sequences, H W space, T frames, C polarities.
"""

import json
import logging
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from spimm.data.mend import NOTHING, Mended
from spimm.files import write_whole

logger = logging.getLogger("spimm.data")

MAGIC = b"spimmfr1"
CHECKED_BYTES = 2**30
"""Of larger files, blocks of about so many bytes in all are compared with their checksums; of others, all."""
_TAIL = struct.Struct("<QI8s")  # length and checksum of the description, MAGIC

Shape = tuple[int, int, int, int]


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames uint8 [N, H, W, T, C], mapped from a file and not to be written to; labels int64 [N]; what was skipped.

    mended, mended_files: events that were mended, and in how many files.
    """

    images: Tensor
    labels: Tensor
    skipped: tuple[str, ...]
    mended: Mended = NOTHING
    mended_files: int = 0


@dataclass(eq=False)
class FrameWriter:
    """Where a part's frames go while they are built."""

    file: BinaryIO
    shape: Shape
    labels: list[int] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    blocks: list[tuple[int, int]] = field(default_factory=list)
    mended: Mended = NOTHING
    mended_files: int = 0

    def add(self, frames: np.ndarray, labels: list[int]) -> None:
        """The next sequences, uint8 [K, H, W, T, C], and their labels."""
        assert frames.shape == (len(labels), *self.shape) and frames.dtype == np.uint8
        block = np.ascontiguousarray(frames).data.cast("B")
        self.file.write(block)
        self.blocks.append((len(block), zlib.crc32(block)))
        self.labels += labels

    def skip(self, reason: str) -> None:
        """A sequence that is left out, and why."""
        self.skipped.append(reason)

    def mend(self, mended: Mended) -> None:
        """Events of a file that were mended."""
        self.mended = self.mended.plus(mended)
        self.mended_files += any(mended)


Build = Callable[[FrameWriter], None]


def cache_folder(chosen: str | Path | None = None) -> Path:
    """Where frames are kept: `chosen`, else the environment variable SPIMM_CACHE, else spimm in the user's cache."""
    if chosen is not None:
        return Path(chosen).expanduser()
    if os.environ.get("SPIMM_CACHE"):
        return Path(os.environ["SPIMM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "spimm"


def cached_frames(path: Path, shape: Callable[[], Shape], parts: Mapping[str, Build]) -> dict[str, Frames]:
    """The frames in the file at `path`, by part; built by `parts` if there is no such file or it is damaged.

    shape: gives (H, W, T, C) when they are built. The file appears whole or not at all, so several builders do no harm,
    only work twice. What a build raises leaves nothing behind; OSError where the file cannot be written.
    """
    if path.is_file():
        try:
            return _read(path)
        except ValueError as error:
            logger.warning("%s is damaged (%s) and built again", path, error)
    logger.info("framing into %s", path)
    write_whole(path, lambda unfinished: _write(unfinished, shape(), parts))
    return _read(path)


def _write(path: Path, shape: Shape, parts: Mapping[str, Build]) -> None:
    described: dict[str, dict[str, object]] = {}
    with path.open("wb") as file:
        for part, build in parts.items():
            writer = FrameWriter(file, shape)
            build(writer)
            described[part] = {
                name: getattr(writer, name) for name in ("labels", "skipped", "blocks", "mended", "mended_files")
            }
        description = json.dumps({"shape": shape, "parts": described}).encode()
        file.write(description)
        file.write(_TAIL.pack(len(description), zlib.crc32(description), MAGIC))


def _read(path: Path) -> dict[str, Frames]:
    """ValueError for content that is not what was written."""
    size = path.stat().st_size
    content = np.memmap(path, dtype=np.uint8, mode="r") if size else np.empty(0, np.uint8)
    if size < _TAIL.size or bytes(content[-len(MAGIC) :]) != MAGIC:
        raise ValueError(f"it ends before its description, after {size} bytes")
    length, checksum, _ = _TAIL.unpack(content[-_TAIL.size :].data)
    start = size - _TAIL.size - length
    if start < 0 or zlib.crc32(content[start : size - _TAIL.size].data) != checksum:
        raise ValueError("its description is not the one that was written")
    description = json.loads(bytes(content[start : size - _TAIL.size]))
    shape, described = description["shape"], description["parts"]
    blocks = [block for part in described.values() for block in part["blocks"]]
    if sum(length for length, _ in blocks) != start:
        raise ValueError(f"it holds {start} bytes of frames, wanted {sum(length for length, _ in blocks)}")
    _check_blocks(content, blocks)
    frames, first = {}, 0
    for part, facts in described.items():
        last = first + len(facts["labels"]) * math.prod(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's, for memory that it may only read
            images = torch.from_numpy(content[first:last]).view(-1, *shape)
        labels, skipped = torch.tensor(facts["labels"], dtype=torch.int64), tuple(facts["skipped"])
        frames[part] = Frames(images, labels, skipped, Mended(*facts["mended"]), facts["mended_files"])
        first = last
    return frames


def _check_blocks(content: np.ndarray, blocks: list[list[int]]) -> None:
    stops = np.cumsum([length for length, _ in blocks])
    every = max(int(stops[-1]) // CHECKED_BYTES, 1) if blocks else 1
    for (length, checksum), stop in zip(blocks[::every], stops[::every], strict=True):
        if zlib.crc32(content[stop - length : stop].data) != checksum:
            raise ValueError(f"bytes {stop - length} to {stop} are not those that were written")
