"""From a short text to a data set: `digits`, `cifar10`, `n-mnist`, `npz:FILE`, `folder:PATH`, `recordings:PATH`."""

import difflib
from dataclasses import fields
from pathlib import Path
from typing import Any

from spimm.data.corrupt import Corrupt
from spimm.data.dataset import ImageData
from spimm.data.digits_dvs import load_digits_dvs
from spimm.data.event_sets import EVENT_SETS, GESTURES, SPLIT_SETS, list_event_files
from spimm.data.events import load_events
from spimm.data.files import CROP_FRACTION
from spimm.data.folder import is_flat, load_folder
from spimm.data.folds import take_fold
from spimm.data.frames import Bins, Framing, Representation
from spimm.data.har_dvs import load_har_dvs
from spimm.data.held_out import hold_out
from spimm.data.mend import REFUSE, Bounds, Mending, Order
from spimm.data.packed import load_npz
from spimm.data.places import data_folder, data_path
from spimm.data.static import DIGITS, TORCHVISION_SETS, load_digits, load_torchvision, torchvision_classes
from spimm.data.transforms import Interpolation

EMBEDDED = ("digits", "digits-dvs")
FILED = (*EVENT_SETS, "har-dvs")
NAMES = (*EMBEDDED, *TORCHVISION_SETS, "imagefolder", *FILED)
PREFIXES = ("npz", "events", "folder", "recordings")
EVENTS = ("digits-dvs", *FILED, "events", "recordings")
FOLDERS = ("imagefolder", "folder", "recordings")
UNSPLIT = (*EMBEDDED, *SPLIT_SETS)


def list_data() -> tuple[str, ...]:
    """The forms that `load_data` understands."""
    return (*NAMES, "npz:FILE", "events:FILE", "folder:PATH", "recordings:PATH")


def takes_frames(spec: str) -> bool:
    """Whether `spec` names events, which need frames=T."""
    return _checked_name(spec) in EVENTS


def known_classes(spec: str) -> tuple[str, ...] | None:
    """The class names of a published data set, by label; None for others."""
    if spec in TORCHVISION_SETS:
        return torchvision_classes(spec)
    return {"n-mnist": DIGITS, "dvs-gesture": GESTURES, **dict.fromkeys(EMBEDDED, DIGITS)}.get(spec)


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
    val_share: float = 0.0,
    interpolation: Interpolation = "bilinear",
    crop_fraction: float = CROP_FRACTION,
    corrupt: Corrupt = "refuse",
    cache_dir: str | Path | None = None,
    download: bool = False,
) -> ImageData:
    """The data set that `spec` names (see `list_data`).

    data_dir: folder with the files, by default the environment variable SPIMM_DATA; `digits` and `digits-dvs` need
    none, `imagefolder` is that folder itself, event sets have one of their name in it (see `event_sets`), relative
    paths after a colon start there, and where there is no such file in the working folder. image_size: resize to
    squares, in pixels; events keep the sensor's size, but for `har-dvs`, whose files are images. train_fraction: only
    for sets without an official split: `digits`, `digits-dvs`, `n-caltech101` and `cifar10-dvs`. split_seed: of their
    split, of folders that are not split, and of val_share. frames, bins, bin_size,
    representation, merge_polarity, sensor_size: only for events, which need frames; see `Framing`. sensor: (H, W) of
    `recordings:` whose files do not state it. stream: camera of `recordings:` whose files hold several. out_of_order,
    out_of_bounds: what becomes of events back in time or outside the sensor; see `read_recording`. fold: in place of
    the split the set comes with, fold `fold` of `folds` over all its images; see `take_fold`. val_share: part of the
    training images that is held out, by class, to choose the best epoch (`ImageData.val`); of a folder that is not
    split, part of all images, its test images. interpolation, crop_fraction: only for folders of images; see
    `ImageFiles`. corrupt: what becomes of images in folders and JPEG archives, and of files of recordings, that cannot
    be read. cache_dir: where frames of event files are kept; see `cache_folder`. download: torchvision may fetch a set
    that is missing from data_dir.
    """
    name = _checked_name(spec)
    framed = {"bins": bins, "bin_size": bin_size, "representation": representation}
    framed |= {"merge_polarity": merge_polarity, "sensor_size": sensor_size}
    framing = _framing(spec, name, frames, framed)
    if name in EVENTS and name != "har-dvs" and image_size is not None:
        raise ValueError(f"{spec} keeps the size of its sensor, got image_size={image_size}")
    for label, value in (("sensor", sensor), ("stream", stream)):
        if value is not None and name != "recordings":
            raise ValueError(f"{label} is for recordings:PATH, got {value} for {spec}")
    mending = Mending(out_of_order, out_of_bounds)
    if mending != REFUSE and name not in (*EVENT_SETS, "recordings", "events"):
        raise ValueError(f"out_of_order and out_of_bounds are for files of events, got {mending} for {spec}")
    reading = {"interpolation": interpolation, "crop_fraction": crop_fraction}
    if name not in ("imagefolder", "folder") and (interpolation, crop_fraction) != ("bilinear", CROP_FRACTION):
        raise ValueError(f"interpolation and crop_fraction are for folders of images, got {reading} for {spec}")
    where = _place(spec, name, data_dir, download)
    flat = name in FOLDERS and is_flat(where)
    _check_split(spec, name, train_fraction, split_seed, val_share, flat=flat)
    if name == "digits":
        data = load_digits(image_size=image_size, train_fraction=train_fraction, seed=split_seed)
    elif name == "digits-dvs" and framing is not None:
        data = load_digits_dvs(framing, train_fraction=train_fraction, seed=split_seed)
    elif name == "events" and framing is not None:
        data = load_events(where, name=spec, framing=framing, mending=mending)
    elif name == "har-dvs" and frames is not None:
        kept = {"corrupt": corrupt, "cache_dir": cache_dir}
        data = load_har_dvs(where, name=spec, frames=frames, image_size=image_size, **kept)
    elif framing is not None:
        split = {"train_fraction": train_fraction, "seed": split_seed, "val_share": val_share}
        files = list_event_files(name, where, sensor=sensor, stream=stream, mending=mending, **split)
        data = files.load(spec, framing, corrupt=corrupt, cache_dir=cache_dir)
    elif name in TORCHVISION_SETS:
        data = load_torchvision(name, where, image_size=image_size, download=download)
    elif name in FOLDERS:
        share = {"val_share": val_share, "seed": split_seed}
        data = load_folder(where, name=spec, image_size=image_size, corrupt=corrupt, **reading, **share)
    else:
        data = load_npz(where, name=spec, image_size=image_size, corrupt=corrupt)
    data = data if fold is None else take_fold(data, fold=fold, folds=folds)
    return hold_out(data, val_share, split_seed) if val_share and (fold is not None or not flat) else data


def _place(spec: str, name: str, data_dir: str | Path | None, download: bool) -> Path:
    """The file or folder of the set; nothing in particular for embedded ones."""
    if name in EMBEDDED:
        return Path()
    if name in PREFIXES:
        return data_path(spec, data_dir)
    folder = data_folder(spec, data_dir, may_create=download and name in TORCHVISION_SETS)
    return folder / name if name in FILED else folder


def _check_split(
    spec: str, name: str, train_fraction: float | None, split_seed: int | None, val_share: float, *, flat: bool
) -> None:
    """ValueError for settings of a split that the set does not have."""
    if not 0 <= val_share < 1:
        raise ValueError(f"val_share must lie in [0, 1), got {val_share}")
    if name not in UNSPLIT and (train_fraction is not None or (split_seed is not None and not val_share and not flat)):
        seen = f"train_fraction={train_fraction}, split_seed={split_seed}"
        raise ValueError(
            f"{spec} has its own split, which {seen} cannot change; {', '.join(UNSPLIT)} take them, "
            "and val_share with split_seed holds out training images of any set"
        )


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


def pin(spec: str, data_dir: str | Path | None) -> tuple[str, str | None]:
    """`spec` and `data_dir` as they are found from any folder: absolute paths. data_dir: None where none is needed."""
    name = _checked_name(spec)
    if name in PREFIXES:
        return f"{name}:{data_path(spec, data_dir).absolute()}", None
    return spec, None if name in EMBEDDED else str(data_folder(spec, data_dir).absolute())


def _nearest(name: str) -> str:
    matches = difflib.get_close_matches(name.lower(), (*NAMES, *PREFIXES), n=1, cutoff=0.5)
    return f", did you mean {matches[0]!r}?" if matches else ""
