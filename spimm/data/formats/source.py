"""The bytes of one event file, the events that a reader gives, and the one error that every reader raises."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

Size = tuple[int, int]

_TEXT = bytes([*b"\t\r", *range(32, 256)])


class EventFileError(ValueError):
    """An event file that cannot be read.

    path: the file. offset: the byte at fault, None where `message` names the event. message: what was seen and wanted.
    """

    def __init__(self, path: Path, offset: int | None, message: str) -> None:
        super().__init__(path, offset, message)
        self.path, self.offset, self.message = path, offset, message

    def __str__(self) -> str:
        where = "" if self.offset is None else f", byte {self.offset}"
        return f"{self.path}{where}: {self.message}"


class Decoded(NamedTuple):
    """Events [n] as integers, not yet checked, and the sensors (H, W) that the file may mean, the least first."""

    x: np.ndarray
    y: np.ndarray
    t: np.ndarray
    p: np.ndarray
    sensors: tuple[Size, ...]


@dataclass(frozen=True, eq=False)
class Source:
    """The content of an event file.

    sensor: (H, W) that the caller states. keep_whole: a file that ends within an event is read up to it, not refused.
    """

    path: Path
    data: bytes
    sensor: Size | None = None
    keep_whole: bool = False

    @property
    def largest(self) -> int:
        """Bytes that the file may grow to when decompressed: more than event data ever do, and bounded."""
        return 2**26 + 64 * len(self.data)

    def error(self, offset: int | None, message: str) -> EventFileError:
        return EventFileError(self.path, offset, message)

    def cut(self, offset: int, message: str, records: int) -> None:
        """Refuses a file that ends too early, if it is to be refused."""
        if not self.keep_whole:
            raise self.error(offset, f"{message}: cut after {records} whole records, which truncated='keep' reads")

    def records(self, start: int, kind: np.dtype) -> np.ndarray:
        """Records of one size from byte `start` to the end."""
        count, rest = divmod(max(len(self.data) - start, 0), kind.itemsize)
        if rest:
            self.cut(start + count * kind.itemsize, f"wanted {kind.itemsize} bytes for a record, got {rest}", count)
        return np.frombuffer(self.data, kind, count, start)

    def header(self, mark: bytes, last: str) -> tuple[list[str], int]:
        """The lines of text at the start that begin with `mark`, and the offset behind them.

        `last`, in lower case without spaces, ends them. A line with other than text in it is data that happen to begin
        like a header.
        """
        lines, offset = [], 0
        while self.data.startswith(mark, offset):
            end = self.data.find(b"\n", offset)
            line = self.data[offset : end if end >= 0 else None]
            if line.translate(None, _TEXT):
                break
            lines.append(line.decode("latin-1").strip())
            offset += len(line) + (end >= 0)
            if "".join(lines[-1].lower().split()) == last:
                break
        return lines, offset


def unwrapped(values: np.ndarray, bits: int) -> np.ndarray:
    """int64 values of a counter of `bits` bits that starts again at 0, known by a fall of over half its range."""
    values = values.astype(np.int64)
    rounds = values[1:] < values[:-1] - 2 ** (bits - 1)
    if rounds.any():
        values[1:] += np.cumsum(rounds) << bits
    return values
