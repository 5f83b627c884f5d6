"""Damaged files of every format: each is read or refused with EventFileError, and nothing else happens."""

import importlib.util
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from spimm.data import EventFileError, read_recording

from . import writers
from .writers import FORMATS, random_events

VARIANTS = 1000
# Python objects and arrays that a damaged file of a few kB may make; what decompresses may reach 64 MiB.
PEAK = 2**27


def originals() -> list[tuple[str, bytes]]:
    """Files of the writers and, where SPIMM_DATA tells the place, of cameras: endings and contents."""
    found = []
    for name, (ending, write, (height, width)) in FORMATS.items():
        found.append((ending, write(random_events(200, height, width))))
        if name == "aedat4":
            for method, package in ((1, "lz4"), (3, "zstandard")):
                if importlib.util.find_spec(package):
                    found.append((ending, write(random_events(200, height, width), method)))
        if name == "mat":
            found.append((ending, writers.mat(random_events(200), compressed=False)))
    folder = Path(os.environ.get("SPIMM_DATA", "/nowhere")) / "event_fixtures"
    real = sorted(folder.iterdir()) if folder.is_dir() else []
    return found + [(path.suffix, path.read_bytes()[: 2**16]) for path in real]


def damaged(data: bytes, random: np.random.Generator) -> bytes:
    """Cut, changed in some bytes or one 32-bit number, most often near the start, or with a piece lost or doubled."""
    content = np.frombuffer(data, np.uint8).copy()
    reach = int(random.choice([64, 512, len(data)]))
    at = int(random.integers(0, max(min(reach, len(data)), 1)))
    kind = random.integers(0, 5)
    if kind == 0:
        return data[:at]
    if kind == 1:
        where = random.integers(0, max(min(reach, len(data)), 1), int(random.integers(1, 9)))
        content[where] = random.integers(0, 256, len(where))
        return content.tobytes()
    if kind == 2:
        number = int(random.choice([0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 8]))
        return data[:at] + number.to_bytes(4, "little") + data[at + 4 :]
    length = int(random.integers(1, 64))
    if kind == 3:
        return data[:at] + data[at + length :]
    return data[:at] + data[at : at + length] * 2 + data[at + length :]


def test_damaged_files_are_read_or_refused_in_bounded_memory(tmp_path):
    random, files = np.random.default_rng(0), originals()
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    for index in range(VARIANTS):
        ending, data = files[index % len(files)]
        path = tmp_path / f"{index}{ending}"
        path.write_bytes(damaged(data, random))
        try:
            recording = read_recording(path, truncated="keep" if index % 2 else "refuse")
            assert len(recording.x) == len(recording)
            outcomes["read"] += 1
        except EventFileError as error:
            assert str(error).startswith(str(path))
            outcomes["refused"] += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert min(outcomes.values()) > VARIANTS // 10, outcomes
    assert peak < PEAK


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
