"""The labels of DVS128 Gesture: `user*_labels.csv` beside each recording, with class, startTime_usec, endTime_usec."""

import csv
from pathlib import Path
from typing import NamedTuple

from spimm.data.formats.source import EventFileError
from spimm.reading import UnreadableFile, read_text, short

COLUMNS = ["class", "startTime_usec", "endTime_usec"]
NUM_CLASSES = 11
LARGEST = 2**20
"""Bytes of such a file, at most."""


class LabelledWindow(NamedTuple):
    """One gesture: its class from 0 (1 in the file), and its time [start, stop) in microseconds of the recording."""

    label: int
    start: int
    stop: int


def read_gesture_labels(path: str | Path) -> list[LabelledWindow]:
    """The gestures of a recording in the order of the file. EventFileError names the line of one that cannot be."""
    path, found = Path(path), []
    try:
        lines = read_text(path, limit=LARGEST, encoding="ascii").splitlines()
        header, *rows = csv.reader(lines) if lines else [[]]
    except (UnreadableFile, csv.Error) as error:
        reason = error.reason if isinstance(error, UnreadableFile) else str(error)
        raise EventFileError(path, None, f"expected comma-separated numbers: {reason}") from error
    if [name.strip() for name in header] != COLUMNS:
        raise EventFileError(path, 0, f"expected the columns {', '.join(COLUMNS)}, got {short(str(header), 200)}")
    for number, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) != 3 or not all(cell.strip().isdigit() and len(cell) < 20 for cell in row):
            raise EventFileError(path, None, f"line {number} must hold three numbers, got {short(str(row), 200)}")
        label, start, stop = map(int, row)
        if not 1 <= label <= NUM_CLASSES or stop <= start:
            raise EventFileError(path, None, f"line {number} must hold a class of 1 to 11, start < end, got {row}")
        found.append(LabelledWindow(label - 1, start, stop))
    return found
