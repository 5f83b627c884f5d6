"""Files from strangers: damaged ones of every kind are read or refused with the documented error, and nothing else.

A thousand at each run; 20,000 with `pytest -m slow tests/fuzz`, of other seeds with SPIMM_FUZZ_SEED=N.
"""

import importlib.util
import io
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from spimm.data import EventFileError, load_data, read_gesture_labels, read_packed, read_recording
from spimm.data.event_sets import dvs_gesture
from spimm.models.torch_files import read_torch_file
from spimm.weights import read_safetensors

from ..data.formats import writers
from ..data.formats.writers import FORMATS, random_events
from .damage import Target, check, of_bytes, of_zip

SEED = int(os.environ.get("SPIMM_FUZZ_SEED", "0"))
REFUSED = (EventFileError,)


def recordings() -> list[Target]:
    """Files of the writers and, where SPIMM_DATA tells the place, of cameras."""
    found = []
    for name, (ending, write, (height, width)) in FORMATS.items():
        events = random_events(200, height, width)
        found.append((name, ending, write(events)))
        if name == "aedat4":
            for method, package in ((1, "lz4"), (3, "zstandard")):
                if importlib.util.find_spec(package):
                    found.append((f"aedat4 {package}", ending, write(events, method)))
        if name == "mat":
            found.append(("mat plain", ending, writers.mat(events, compressed=False)))
    folder = Path(os.environ.get("SPIMM_DATA", "/nowhere")) / "event_fixtures"
    real = sorted(folder.iterdir()) if folder.is_dir() else []
    found += [(path.name, path.suffix, path.read_bytes()[: 2**15]) for path in real]
    mending = {"out_of_order": "drop", "out_of_bounds": "drop"}
    targets = []
    for name, ending, content in found:
        damage = of_zip if name == "npz" else of_bytes
        targets.append(Target(name, ending, content, damage, read_recording, REFUSED))
        keep = partial(read_recording, truncated="keep", **mending)
        targets.append(Target(f"{name} mended", ending, content, damage, keep, REFUSED))
    return targets


def npz(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def jpegs(count: int) -> dict[str, np.ndarray]:
    streams = []
    for index in range(count):
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), index, np.uint8)).save(file, "JPEG")
        streams.append(file.getvalue())
    return {
        "jpeg": np.frombuffer(b"".join(streams), np.uint8),
        "offsets": np.cumsum([0, *map(len, streams)]),
        "labels": np.arange(count) % 2,
    }


def sets() -> list[Target]:
    """Data sets in one file, and lists of files."""
    events = {name: getattr(random_events(60, 12, 12), name) for name in "xytp"}
    events |= {"offsets": np.array([0, 30, 60]), "labels": np.array([0, 1])}
    pair = {f"{part}_{key}": values for part in ("train", "test") for key, values in events.items()}
    packed = npz(**pair, sensor_hw=np.array([12, 12]), classes=np.array(["a", "b"]))
    plain = npz(
        x_train=np.zeros((4, 6, 6), np.uint8),
        y_train=np.arange(4) % 2,
        x_test=np.zeros((2, 6, 6), np.uint8),
        y_test=np.arange(2),
    )
    streams = npz(**{f"{part}_{key}": values for part in ("train", "test") for key, values in jpegs(4).items()})
    labels = b"class,startTime_usec,endTime_usec\n1,80048239,85092709\n11,89431170,95231007\n"
    files = (ValueError, FileNotFoundError)

    def listed(path: Path) -> object:
        (path.parent / "a_labels.csv").write_bytes(labels)
        (path.parent / "trials_to_train.txt").write_bytes(path.read_bytes())
        (path.parent / "trials_to_test.txt").write_bytes(b"a.aedat\n")
        return dvs_gesture(path.parent)

    events_file = partial(_load, "events", frames=2)
    mended = partial(_load, "events", frames=2, out_of_order="sort", out_of_bounds="drop")
    skipping = partial(_load, "npz", corrupt="skip")
    return [
        Target("packed recordings", ".npz", packed, of_zip, partial(read_packed, part="train"), REFUSED),
        Target("events:", ".npz", packed, of_zip, events_file, (ValueError,)),
        Target("events: mended", ".npz", packed, of_zip, mended, (ValueError,)),
        Target("npz: plain", ".npz", plain, of_zip, partial(_load, "npz"), (ValueError,)),
        Target("npz: JPEG", ".npz", streams, of_zip, skipping, (ValueError,)),
        Target("labels", ".csv", labels, of_bytes, read_gesture_labels, REFUSED),
        Target("trials", ".txt", b"a.aedat\n\nb.aedat\n" * 5, of_bytes, listed, files),
    ]


def _load(kind: str, path: Path, **settings: Any) -> object:
    return load_data(f"{kind}:{path}", **settings)


def weights() -> list[Target]:
    tensors = {"a.weight": torch.arange(24.0).reshape(2, 3, 4), "a.bias": torch.zeros(2, dtype=torch.bfloat16)}
    file = io.BytesIO()
    torch.save({"model": tensors, "epoch": 3}, file)
    return [
        Target("safetensors", ".safetensors", save(tensors), of_bytes, read_safetensors, (ValueError,)),
        Target("torch", ".pth", file.getvalue(), of_zip, read_torch_file, (ValueError,)),
    ]


KINDS = {"recordings": (recordings, 600), "sets": (sets, 240), "weights": (weights, 160)}


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused_in_bounded_memory_and_time(tmp_path, kind):
    targets, variants = KINDS[kind]
    check(targets(), variants, tmp_path, SEED)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_thousand_damaged_files_are_read_or_refused(tmp_path, kind, part):
    targets, variants = KINDS[kind]
    check(targets(), 2 * variants, tmp_path, SEED + 1 + part)


@pytest.mark.parametrize("name", FORMATS)
def test_every_beginning_of_a_file_is_read_or_refused(tmp_path, name):
    ending, write, (height, width) = FORMATS[name]
    data = write(random_events(3, height, width, span=2000))
    for length in range(0, len(data), max(len(data) // 300, 1)):
        path = tmp_path / f"{length}{ending}"
        path.write_bytes(data[:length])
        try:
            assert len(read_recording(path, format=name, sensor=(height, width))) <= 3
        except EventFileError as error:
            assert error.path == path
