"""Where event data sets keep their files, and how they are split: as their authors publish them, and one's own.

| name | files below the data folder | split |
|---|---|---|
| n-mnist | n-mnist/{Train,Test}/DIGIT/*.bin | as published |
| n-caltech101 | n-caltech101/CLASS/*.bin | none published: by class, seeded, 90 % train |
| cifar10-dvs | cifar10-dvs/CLASS/*.{aedat,mat,npz} | the first 90 % of each class train, or by class, seeded |
| dvs-gesture | dvs-gesture/*.aedat, *_labels.csv, trials_to_{train,test}.txt | as published |
| recordings:PATH | PATH/{train,val or test}/CLASS/* | by folder; of all three, val chooses the best epoch |
| recordings:PATH | PATH/CLASS/* | by class, seeded, `val_share` (10 %) for tests |

The archives' own top folders, Caltech101 and DvsGesture, may stand in between.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from spimm.data.event_files import EventFiles, Item
from spimm.data.folder import FLAT_SHARE, held_out_parts, is_flat, same_classes, tell_of_split
from spimm.data.formats import read_gesture_labels
from spimm.data.framed import below
from spimm.data.mend import REFUSE, Mending
from spimm.data.static import stratified_split
from spimm.data.tree import labelled_files
from spimm.reading import read_text

SUFFIXES = (".bin", ".aedat", ".aedat4", ".dat", ".raw", ".es", ".mat", ".npz")
GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter clockwise",
    "left arm clockwise",
    "left arm counter clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
DEFAULT_FRACTION = 0.9
EVENT_SETS = ("n-mnist", "dvs-gesture", "n-caltech101", "cifar10-dvs")
SPLIT_SETS = EVENT_SETS[2:]
"""Those that are published without a split."""


def list_event_files(
    name: str,
    root: Path,
    *,
    train_fraction: float | None = None,
    seed: int | None = None,
    sensor: tuple[int, int] | None = None,
    stream: int | None = None,
    mending: Mending = REFUSE,
    val_share: float = 0.0,
) -> EventFiles:
    """The files of one of EVENT_SETS, or of `recordings`, below `root`.

    train_fraction, seed: of SPLIT_SETS. sensor, stream, val_share: of `recordings`. mending: what becomes of events
    that cannot be. FileNotFoundError for what is missing.
    """
    if stream is not None and name != "recordings":
        raise ValueError(f"stream is for recordings:PATH, got {stream} for {name}")
    return replace(_files(name, root, train_fraction, seed, sensor, val_share), stream=stream, mending=mending)


def _files(
    name: str,
    root: Path,
    train_fraction: float | None,
    seed: int | None,
    sensor: tuple[int, int] | None,
    val_share: float,
) -> EventFiles:
    if name == "n-mnist":
        return n_mnist(root)
    if name == "dvs-gesture":
        return dvs_gesture(root)
    if name == "recordings":
        return recordings(root, sensor, val_share, seed)
    return (n_caltech101 if name == "n-caltech101" else cifar10_dvs)(root, train_fraction, seed)


def n_mnist(root: Path) -> EventFiles:
    """Orchard et al. 2015: 60000 train, 10000 test, 34 x 34."""
    return _by_part(root, "Train", "Test", (34, 34), "official split")


def recordings(
    root: Path, sensor: tuple[int, int] | None = None, val_share: float = 0.0, seed: int | None = None
) -> EventFiles:
    """Own files, in train/CLASS and val/CLASS (or test/CLASS; with all three, val chooses the best epoch); or in CLASS
    alone, of which `val_share` (0.1 where it is 0) are held out for tests, by class and seed.

    sensor: (H, W) where files do not state it.
    """
    if is_flat(root):
        files = _split(root, sensor, 1 - (val_share or FLAT_SHARE), seed or 0)
        tell_of_split(str(root), len(files.test), len(files.test) + len(files.train), files.note)
        return files
    *val, test = held_out_parts(root)
    note = f"test = its {test} folder" + (", val = its val folder" if val else "")
    return _by_part(root, "train", test, sensor, note, *val)


def n_caltech101(root: Path, train_fraction: float | None = None, seed: int | None = None) -> EventFiles:
    """Orchard et al. 2015: 8709 recordings of 101 classes, up to 180 x 240."""
    return _split(_inside(root, "Caltech101"), (180, 240), train_fraction, 0 if seed is None else seed)


def cifar10_dvs(root: Path, train_fraction: float | None = None, seed: int | None = None) -> EventFiles:
    """Li et al. 2017: 10000 recordings of 10 classes, 128 x 128.

    Without a seed the first recordings of each class train, in the order of file names as texts, in which 10 comes
    before 2: so do torchvision's folders and SpikingJelly's `split_to_train_test_set`, by which QKFormer was trained.
    Images are upright, as SpikingJelly's loader turns them (see `formats.mounted`).
    """
    return replace(_split(root, (128, 128), train_fraction, seed), format="cifar10-dvs")


def dvs_gesture(root: Path) -> EventFiles:
    """Amir et al. 2017: 11 gestures, 23 subjects train and 6 test, 128 x 128; a sequence for each that is labelled."""
    root = _inside(root, "DvsGesture")
    parts = {}
    for name in ("trials_to_train.txt", "trials_to_test.txt"):
        if not (root / name).is_file():
            raise FileNotFoundError(f"{root} must hold {name}, the .aedat files that it lists and their _labels.csv")
        listed = [line.strip() for line in read_text(root / name, encoding="ascii").splitlines()]
        parts[name] = tuple(item for trial in listed if trial for item in _gestures(below(root, trial)))
    train, test = parts.values()
    return EventFiles(root, GESTURES, train, test, (128, 128), "official split by subjects")


def _gestures(path: Path) -> list[Item]:
    labels = read_gesture_labels(path.with_name(f"{path.stem}_labels.csv"))
    return [Item(path, gesture.label, (gesture.start, gesture.stop)) for gesture in labels]


def _by_part(root: Path, train: str, test: str, sensor: tuple[int, int] | None, note: str, *val: str) -> EventFiles:
    listed = {part: _classes(root / part) for part in (train, test, *val)}
    classes = same_classes(root, listed)
    first, second, *third = (_labelled(files.values()) for files in listed.values())
    return EventFiles(root, classes, first, second, sensor, note, val=third[0] if third else ())


def _split(root: Path, sensor: tuple[int, int] | None, train_fraction: float | None, seed: int | None) -> EventFiles:
    listed = _classes(root)
    fraction = DEFAULT_FRACTION if train_fraction is None else train_fraction
    if not 0 < fraction < 1:
        raise ValueError(f"train_fraction must lie between 0 and 1, got {fraction}")
    if seed is None:
        cuts = {name: math.ceil(len(files) * fraction) for name, files in listed.items()}
        train = _labelled([files[: cuts[name]] for name, files in listed.items()])
        test = _labelled([files[cuts[name] :] for name, files in listed.items()])
        note = f"the first {fraction:.0%} of each class, by file name, train"
        return EventFiles(root, tuple(listed), train, test, sensor, note)
    items = _labelled(listed.values())
    chosen = stratified_split(np.array([item.label for item in items]), train_fraction=fraction, seed=seed)
    train, test = (tuple(items[index] for index in part) for part in chosen)
    note = f"stratified split, train fraction {fraction}, seed {seed}"
    return EventFiles(root, tuple(listed), train, test, sensor, note)


def _labelled(classes: Iterable[list[Path]]) -> tuple[Item, ...]:
    return tuple(Item(path, label) for label, files in enumerate(classes) for path in files)


def _classes(root: Path) -> dict[str, list[Path]]:
    """Event files by class, both in the order of their names. FileNotFoundError where there are none."""
    listed = labelled_files(root, SUFFIXES, "event files")
    return {name: [Path(path) for path in files] for name, files in listed.items()}


def _inside(root: Path, folder: str) -> Path:
    """The top folder of the archive, where it was kept."""
    return root / folder if (root / folder).is_dir() else root
