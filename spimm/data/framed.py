"""Data sets that are made into frames once: from what their files are, by way of the cache, to an `ImageData`."""

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.frame_cache import Build, Frames, FrameWriter, Shape, cache_folder, cached_frames
from spimm.data.mend import NOTHING, REFUSE, Mending
from spimm.data.split import ImageSplit

logger = logging.getLogger("spimm.data")

NAMED = 3
"""Skipped files that the note of a data set names."""
# Of what the cache holds: another one where other frames come from the same files and settings.
_VERSION = 2


def load_framed(
    name: str,
    parts: Mapping[str, Build],
    shape: Callable[[], Shape],
    facts: Mapping[str, Any],
    *,
    class_names: tuple[str, ...],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    note: str,
    corrupt: Corrupt,
    cache_dir: str | Path | None,
    mending: Mending = REFUSE,
) -> ImageData:
    """The set whose parts, train, test and maybe val, `parts` builds, mapped from a file in `cache_dir` (see
    `cache_folder`).

    shape, parts: as for `cached_frames`. facts: all that the frames depend on, plain JSON values. mending: how the
    parts mend events; what it did is in the note, and logged. Raises ValueError for a file that cannot be read, under
    corrupt="refuse", and for a part of which none can.
    """
    digest = hashlib.sha256(json.dumps([_VERSION, facts], sort_keys=True).encode()).hexdigest()[:24]
    stem = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in Path(name).name)
    framed = cached_frames(cache_folder(cache_dir) / f"{stem}-{digest}.frames", shape, parts)
    skipped = [reason for part in framed.values() for reason in part.skipped]
    if skipped and corrupt == "refuse":
        raise ValueError(refusal(skipped[0]))
    for part, frames in framed.items():
        if not len(frames.labels):
            raise ValueError(f"{name}: nothing of its {part} part can be read: {'; '.join(frames.skipped[:NAMED])}")
    if skipped:
        more = f"; and {len(skipped) - NAMED} more" if len(skipped) > NAMED else ""
        note = f"{note}; {len(skipped)} that cannot be read left out: {'; '.join(skipped[:NAMED])}{more}"
    note += _told_of(name, framed, mending)
    splits = {part: ImageSplit(frames.images, frames.labels) for part, frames in framed.items()}
    mean, std = statistics
    train, test, val = splits["train"], splits["test"], splits.get("val")
    about: dict[str, Any] = {"class_names": class_names, "mean": mean, "std": std, "note": note}
    return ImageData(name, train, test, **about, val=val)


def _told_of(name: str, framed: Mapping[str, Frames], mending: Mending) -> str:
    """What was mended, for the note; logged as well."""
    total = NOTHING
    for frames in framed.values():
        total = total.plus(frames.mended)
    if not any(total):
        return ""
    told = f"{mending.told(total)}, in {sum(frames.mended_files for frames in framed.values())} files"
    logger.warning("%s: %s", name, told)
    return f"; {told}"


def fingerprint(path: Path, root: Path) -> tuple[str, int, int]:
    """Name below `root`, bytes and time of change: other ones mean other content. FileNotFoundError for no file."""
    facts = path.stat()
    return path.relative_to(root).as_posix(), facts.st_size, facts.st_mtime_ns


def below(root: Path, name: str) -> Path:
    """The file or folder that a list names. ValueError for one outside `root`."""
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise ValueError(f"{root}: expected names of files below it in its lists, got {name[:200]!r}")
    return root / path


def refuse_or_skip(writer: FrameWriter, reason: str, corrupt: Corrupt) -> None:
    """Raises ValueError, or has the writer note the reason."""
    if corrupt == "refuse":
        raise ValueError(refusal(reason))
    writer.skip(reason)


def refusal(reason: str) -> str:
    return f"{reason}; corrupt=skip leaves such out"
