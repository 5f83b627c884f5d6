"""What lies below a folder of classes: its class folders and their files, without what systems and tools put there."""

import logging
import os
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

logger = logging.getLogger("spimm.data")

JUNK = (
    *("__MACOSX", "@eaDir", "@Recycle", "#recycle", "#snapshot", "$RECYCLE.BIN", "System Volume Information"),
    *("lost+found", "Thumbs.db", "desktop.ini"),
)
"""What file servers and systems add, beside hidden files and folders (`.ipynb_checkpoints`, `._a.jpg`)."""
NAMED = 4
"""Kinds of files that a message names."""


def passed_over(name: str) -> bool:
    """Whether a file or folder of that name is no part of a data set: hidden, or put there by a system."""
    return name.startswith(".") or name in JUNK


def class_folders(root: Path) -> list[Path]:
    """The folders in `root` that stand for classes, in the order of their names; none where there is no `root`."""
    if not root.is_dir():
        return []
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and not passed_over(folder.name))


def labelled_files(root: Path, suffixes: tuple[str, ...], kind: str = "images") -> dict[str, list[str]]:
    """Class -> paths of its files that end in `suffixes`, at any depth, in torchvision's order.

    Links are followed, but not to a folder that they are in. Says once how many files of which other kinds were passed
    over. FileNotFoundError for no class, and for classes without a file, which it names; `kind` is what it calls files.
    """
    folders, others = class_folders(root), Counter[str]()
    if root.is_dir():
        loose = [path.name for path in root.iterdir() if path not in folders]
        others.update("hidden or of the system" if passed_over(name) else "beside the class folders" for name in loose)
    listed = {folder.name: _below(str(folder), suffixes, others) for folder in folders}
    if others:
        _tell(str(root), _counted(others))
    if not listed:
        raise FileNotFoundError(f"{root} must hold one folder of {kind} per class, got none")
    empty = [name for name, files in listed.items() if not files]
    if empty:
        more = f" and {len(empty) - NAMED} more" if len(empty) > NAMED else ""
        raise FileNotFoundError(
            f"{root} must hold {kind} in every class folder, got none in {', '.join(empty[:NAMED])}{more}; "
            f"their names end in {' '.join(suffixes)}"
        )
    return listed


@cache
def _tell(root: str, counted: str) -> None:
    logger.warning("%s: files passed over: %s", root, counted)


def _counted(others: Counter[str]) -> str:
    kinds = sorted(others.items(), key=lambda item: (-item[1], item[0]))[:NAMED]
    rest = others.total() - sum(count for _, count in kinds)
    return ", ".join(f"{count} {kind}" for kind, count in kinds) + (f", {rest} others" if rest else "")


def _below(folder: str, suffixes: tuple[str, ...], others: Counter[str]) -> list[str]:
    places = sorted(_walk(folder, (), suffixes, others))
    return [os.path.join(place, name) for place, names in places for name in names]


def _walk(
    folder: str, above: tuple[str, ...], suffixes: tuple[str, ...], others: Counter[str]
) -> Iterator[tuple[str, list[str]]]:
    """(folder, sorted names of its files) of `folder` and of those below it. above: the real paths it is in."""
    here = (*above, os.path.realpath(folder))
    names, folders = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if passed_over(entry.name):
                others["hidden or of the system"] += 1
            elif os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir():
                folders.append(entry.path)
            elif not (os.path.isfile(entry.path) if entry.is_symlink() else entry.is_file()):
                others["broken links or no files"] += 1
            elif entry.name.lower().endswith(suffixes):
                names.append(entry.name)
            else:
                others[os.path.splitext(entry.name)[1].lower() or "without a suffix"] += 1
    yield folder, sorted(names)
    for path in folders:
        if os.path.realpath(path) in here:
            others["links to a folder that they are in"] += 1
        else:
            yield from _walk(path, here, suffixes, others)
