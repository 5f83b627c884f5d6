"""From a short text to a data set: `digits`, `cifar10`, `n-mnist`, `npz:FILE`, `folder:PATH`, `recordings:PATH`."""

import difflib
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.digits_dvs import load_digits_dvs
from spimm.data.event_sets import EVENT_SETS, SPLIT_SETS, list_event_files
from spimm.data.events import load_events
from spimm.data.files import CROP_FRACTION
from spimm.data.folder import load_folder
from spimm.data.folds import take_fold
from spimm.data.frames import Bins, Framing, Representation
from spimm.data.har_dvs import load_har_dvs
from spimm.data.mend import REFUSE, Bounds, Mending, Order
from spimm.data.packed import load_npz
from spimm.data.static import TORCHVISION_SETS, load_digits, load_torchvision
from spimm.data.transforms import Interpolation

EMBEDDED = ("digits", "digits-dvs")
FILED = (*EVENT_SETS, "har-dvs")
NAMES = (*EMBEDDED, *TORCHVISION_SETS, "imagefolder", *FILED)
PREFIXES = ("npz", "events", "folder", "recordings")
EVENTS = ("digits-dvs", *FILED, "events", "recordings")
UNSPLIT = (*EMBEDDED, *SPLIT_SETS)


def list_data() -> tuple[str, ...]:
    """The forms that `load_data` understands."""
    return (*NAMES, "npz:FILE", "events:FILE", "folder:PATH", "recordings:PATH")


def takes_frames(spec: str) -> bool:
    """Whether `spec` names events, which need frames=T."""
    return _checked_name(spec) in EVENTS


def load_data(
    spec: str,
    *,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    train_fraction: float | None = None,
    split_seed: int | None = None,
    frames: int | None = None,
    bins: Bins = "time",
    bin_size: int | None = None,
    representation: Representation = "counts",
    merge_polarity: bool = False,
    sensor_size: int | None = None,
    sensor: tuple[int, int] | None = None,
    stream: int | None = None,
    out_of_order: Order = "refuse",
    out_of_bounds: Bounds = "refuse",
    fold: int | None = None,
    folds: int = 5,
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = CROP_FRACTION,
    corrupt: Corrupt = "refuse",
    cache_dir: str | Path | None = None,
    download: bool = False,
) -> ImageData:
    """The data set that `spec` names (see `list_data`).

    data_dir: folder with the files, by default the environment variable SPIMM_DATA; `digits` and `digits-dvs` need
    none, `imagefolder` is that folder itself, event sets have one of their name in it (see `event_sets`), relative
    paths after a colon start there, or without one in the working folder. image_size: resize to squares, in pixels;
    events keep the sensor's size, but for `har-dvs`, whose files are images. train_fraction, split_seed: only for sets
    without an official split: `digits`, `digits-dvs`, `n-caltech101` and `cifar10-dvs`. frames, bins, bin_size,
    representation, merge_polarity, sensor_size: only for events, which need frames; see `Framing`. sensor: (H, W) of
    `recordings:` whose files do not state it. stream: camera of `recordings:` whose files hold several. out_of_order,
    out_of_bounds: what becomes of events back in time or outside the sensor; see `read_recording`. fold: in place of
    the split the set comes with, fold `fold` of `folds` over all its images; see `take_fold`. interpolation,
    crop_fraction: only for folders of images; see `ImageFiles`.
    corrupt: what becomes of images in folders and JPEG archives, and of files of recordings, that cannot be read.
    cache_dir: where frames of event files are kept; see `cache_folder`. download: torchvision may fetch a set that is
    missing from data_dir.
    """
    name = _checked_name(spec)
    framed = {"bins": bins, "bin_size": bin_size, "representation": representation}
    framed |= {"merge_polarity": merge_polarity, "sensor_size": sensor_size}
    framing = _framing(spec, name, frames, framed)
    if name in EVENTS and name != "har-dvs" and image_size is not None:
        raise ValueError(f"{spec} keeps the size of its sensor, got image_size={image_size}")
    if name not in UNSPLIT and (train_fraction is not None or split_seed is not None):
        seen, wanted = f"train_fraction={train_fraction}, split_seed={split_seed}", ", ".join(UNSPLIT)
        raise ValueError(f"{spec} has its own split, which {seen} cannot change; only {wanted} take them")
    for label, value in (("sensor", sensor), ("stream", stream)):
        if value is not None and name != "recordings":
            raise ValueError(f"{label} is for recordings:PATH, got {value} for {spec}")
    mending = Mending(out_of_order, out_of_bounds)
    if mending != REFUSE and name not in (*EVENT_SETS, "recordings", "events"):
        raise ValueError(f"out_of_order and out_of_bounds are for files of events, got {mending} for {spec}")
    reading = {"interpolation": interpolation, "crop_fraction": crop_fraction}
    if name not in ("imagefolder", "folder") and (interpolation, crop_fraction) != ("bilinear", CROP_FRACTION):
        raise ValueError(f"interpolation and crop_fraction are for folders of images, got {reading} for {spec}")
    if name == "digits":
        data = load_digits(image_size=image_size, train_fraction=train_fraction, seed=split_seed)
    elif name == "digits-dvs" and framing is not None:
        data = load_digits_dvs(framing, train_fraction=train_fraction, seed=split_seed)
    elif name == "events" and framing is not None:
        data = load_events(_file(spec, data_dir), name=spec, framing=framing, mending=mending)
    elif name == "har-dvs" and frames is not None:
        where = _data_folder(spec, data_dir) / name
        kept = {"corrupt": corrupt, "cache_dir": cache_dir}
        data = load_har_dvs(where, name=spec, frames=frames, image_size=image_size, **kept)
    elif framing is not None:
        where = _file(spec, data_dir) if name == "recordings" else _data_folder(spec, data_dir) / name
        reading = {"sensor": sensor, "stream": stream, "mending": mending}
        files = list_event_files(name, where, train_fraction=train_fraction, seed=split_seed, **reading)
        data = files.load(spec, framing, corrupt=corrupt, cache_dir=cache_dir)
    elif name in TORCHVISION_SETS:
        root = _data_folder(spec, data_dir, may_create=download)
        data = load_torchvision(name, root, image_size=image_size, download=download)
    elif name == "imagefolder":
        data = load_folder(_data_folder(spec, data_dir), name=spec, image_size=image_size, corrupt=corrupt, **reading)
    elif name == "folder":
        data = load_folder(_file(spec, data_dir), name=spec, image_size=image_size, corrupt=corrupt, **reading)
    else:
        data = load_npz(_file(spec, data_dir), name=spec, image_size=image_size, corrupt=corrupt)
    return data if fold is None else take_fold(data, fold=fold, folds=folds)


def _framing(spec: str, name: str, frames: int | None, settings: dict[str, Any]) -> Framing | None:
    """How a set of events is framed; None for images. ValueError for settings of the other."""
    if (name in EVENTS) != (frames is not None):
        wanted = "frames=T, the frames to bin each recording into" if name in EVENTS else "no frames: only events do"
        raise ValueError(f"{spec} takes {wanted}, got frames={frames}")
    usual = {item.name: item.default for item in fields(Framing)}
    others = {key: value for key, value in settings.items() if value != usual[key]}
    if others and (frames is None or name == "har-dvs"):
        raise ValueError(f"{others} is for the framing of events, of which {spec} has none")
    return None if frames is None else Framing(frames, **settings)


def _checked_name(spec: str) -> str:
    """What stands before the colon."""
    name, colon, path = spec.partition(":")
    if name not in (*NAMES, *PREFIXES) or (name in NAMES and colon):
        raise ValueError(f"unknown data set {spec!r}{_nearest(name)}; known: {', '.join(list_data())}")
    if name in PREFIXES and not path:
        raise ValueError(f"{spec!r} lacks a path, wanted {name}:PATH")
    return name


def _file(spec: str, data_dir: str | Path | None) -> Path:
    """The path after the colon; without a data folder it starts where the process runs."""
    target = Path(spec.partition(":")[2]).expanduser()
    given = data_dir is not None or os.environ.get("SPIMM_DATA")
    alone = target.is_absolute() or (not given and target.exists())
    return target if alone else _data_folder(spec, data_dir) / target


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
