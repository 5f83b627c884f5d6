"""Cuts the recordings of an .npz file into windows of time, the first of each for training and the last for testing:

    python docs/gesture_windows.py RECORDINGS.npz WINDOWS.npz [--milliseconds 100] [--train 0.7]

Windows of one recording are in both parts: what a model reaches on them says nothing of recordings it has not seen.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np

from spimm.data import Recording, read_packed, save_recordings

Part = tuple[list[Recording], list[int]]


def windows(recording: Recording, length: int) -> list[Recording]:
    """The whole windows of `length` microseconds from the first event on that hold events."""
    edges = np.searchsorted(recording.t, np.arange(recording.t[0], recording.t[-1] + 1, length))
    return [recording.take(slice(start, stop)) for start, stop in pairwise(edges) if stop > start]


def cut(recordings: list[Recording], labels: list[int], *, length: int, train: float) -> tuple[Part, Part]:
    """Training and test windows with their labels; of each recording the first `train` of its windows train."""
    parts: tuple[Part, Part] = ([], []), ([], [])
    for recording, label in zip(recordings, labels, strict=True):
        found = windows(recording, length)
        split = round(len(found) * train)
        for (kept, kept_labels), some in zip(parts, (found[:split], found[split:]), strict=True):
            kept += some
            kept_labels += [label] * len(some)
    return parts


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recordings", type=Path)
    parser.add_argument("windows", type=Path)
    parser.add_argument("--milliseconds", type=int, default=100)
    parser.add_argument("--train", type=float, default=0.7)
    options = parser.parse_args()
    found, labels = read_packed(options.recordings)
    with np.load(options.recordings) as file:
        names = tuple(str(name) for name in file["classes"])
    train, test = cut(found, list(labels), length=1000 * options.milliseconds, train=options.train)
    save_recordings(options.windows, train=train, test=test, class_names=names)
    print(f"{len(train[0])} windows train, {len(test[0])} test: {options.windows}")
