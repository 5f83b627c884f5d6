"""Recordings into .npz files, which `read_recording`, `read_packed` and `events:FILE` read."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from spimm.data.frames import Stream
from spimm.data.recording import FIELDS, Recording
from spimm.files import write_whole

Labelled = tuple[Sequence[Recording], Sequence[int] | np.ndarray]


def save_recording(path: str | Path, recording: Recording) -> Path:
    """Writes one recording, a whole file or none: x, y, t, p and sensor_hw. Returns the path, which ends in .npz."""
    arrays = {name: getattr(recording, name) for name in FIELDS}
    return _write(path, arrays, recording.height, recording.width)


def save_recordings(
    path: str | Path, *, train: Labelled, test: Labelled, class_names: Sequence[str] | None = None
) -> Path:
    """Writes a data set that `load_data("events:FILE")` reads, a whole file or none. Returns the path.

    train, test: recordings of one sensor with an event at least, and their labels from 0 on. class_names: by label.
    ValueError names what does not fit.
    """
    arrays = {} if class_names is None else {"classes": np.array(class_names)}
    for part, (recordings, labels) in (("train", train), ("test", test)):
        labels = np.asarray(labels)
        if labels.dtype.kind not in "iu" or labels.shape != (len(recordings),):
            seen = f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"{part} needs an integer label for each of {len(recordings)} recordings, got {seen}")
        empty = [index for index, recording in enumerate(recordings) if not len(recording)]
        if empty:
            raise ValueError(f"every recording must have an event, got none in recording {empty[0]} of {part}")
        stream = Stream.of(recordings)
        arrays |= {f"{part}_{name}": getattr(stream, name) for name in (*FIELDS, "offsets")}
        arrays[f"{part}_labels"] = labels
    sensor = Stream.of([train[0][0], test[0][0]])  # refuses two sensors
    return _write(path, arrays, sensor.height, sensor.width)


def _write(path: str | Path, arrays: dict[str, np.ndarray], height: int, width: int) -> Path:
    if Path(path).suffix != ".npz":
        raise ValueError(f"path must end in .npz, got {path}")

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **arrays, sensor_hw=np.array([height, width]))  # pyright: ignore[reportArgumentType]

    return write_whole(path, write)
