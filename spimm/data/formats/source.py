"""The bytes of one event file, the events that a reader returns, and the one error that every reader raises."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spimm.data.arrays import largest
from spimm.reading import UnreadableFile, read_bytes, short

Size = tuple[int, int]

LARGEST_FILE = 2**31
"""Bytes of an event file, at most: it is read whole."""
LARGEST_HEADER = 2**20
"""Bytes of a header of text, at most."""
_TEXT = bytes([*b"\t\r", *range(32, 256)])


class EventFileError(ValueError):
    """An event file that cannot be read.

    path: the file. offset: the byte at fault, None where `message` names the event. message: what was seen and what was
    expected.
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
    stream: which of several cameras in the file, by its number.
    """

    path: Path
    data: bytes
    sensor: Size | None = None
    keep_whole: bool = False
    stream: int | None = None

    @classmethod
    def of(
        cls, path: str | Path, sensor: Size | None = None, *, keep_whole: bool = False, stream: int | None = None
    ) -> "Source":
        """The file at `path`, read whole. FileNotFoundError for none, EventFileError for what is no regular file."""
        place = path if isinstance(path, Path) else Path(path)
        try:
            return cls(place, read_bytes(path, limit=LARGEST_FILE), sensor, keep_whole, stream)
        except UnreadableFile as error:
            raise EventFileError(place, None, error.reason) from error

    @property
    def largest(self) -> int:
        """Bytes that the file may grow to when decompressed: more than event data ever do, and bounded."""
        return largest(len(self.data))

    def error(self, offset: int | None, message: str) -> EventFileError:
        """message: shortened where it is long, on one line."""
        return EventFileError(self.path, offset, short(message))

    def cut(self, offset: int, message: str, records: int) -> None:
        """Refuses a file that ends too early, if it is to be refused."""
        if not self.keep_whole:
            raise self.error(offset, f"{message}: cut after {records} whole records, which truncated='keep' reads")

    def chosen(self, streams: list[int]) -> int | None:
        """The stream of events to read, of those in the file; None where there is none and none was asked for."""
        if self.stream is None and len(streams) > 1:
            raise self.error(None, f"holds events of the streams {streams}, choose one: stream={streams[0]}")
        if self.stream is not None and self.stream not in streams:
            raise self.error(None, f"expected events of the stream {self.stream}, got those of {streams or 'none'}")
        return self.stream if self.stream is not None else next(iter(streams), None)

    def records(self, start: int, kind: np.dtype) -> np.ndarray:
        """Records of one size from byte `start` to the end."""
        count, rest = divmod(max(len(self.data) - start, 0), kind.itemsize)
        if rest:
            self.cut(start + count * kind.itemsize, f"expected {kind.itemsize} bytes for a record, got {rest}", count)
        return np.frombuffer(self.data, kind, count, start) if count else np.empty(0, kind)

    def header(self, mark: bytes, last: str) -> tuple[list[str], int]:
        """The lines of text at the start that begin with `mark`, and the offset after them.

        `last`, in lower case without spaces, ends them. A line with other than text in it is data that happen to begin
        like a header.
        """
        lines, offset = [], 0
        while self.data.startswith(mark, offset):
            end = self.data.find(b"\n", offset, offset + LARGEST_HEADER)
            line = self.data[offset : end if end >= 0 else offset + LARGEST_HEADER]
            if line.translate(None, _TEXT):
                break
            lines.append(line.decode("latin-1").strip())
            offset += len(line) + (end >= 0)
            if offset > LARGEST_HEADER:
                raise self.error(0, f"expected a header of at most {LARGEST_HEADER} bytes, got more")
            if "".join(lines[-1].lower().split()) == last:
                break
        return lines, offset


def unwrapped(values: np.ndarray, bits: int) -> np.ndarray:
    """int64 values of a counter of `bits` bits that starts again at 0, known by a fall of over half its range."""
    values = values.astype(np.int64)
    falls = values[1:] < values[:-1]
    if falls.any():
        rounds = falls & (values[1:] < values[:-1] - 2 ** (bits - 1))
        values[1:] += np.cumsum(rounds) << bits
    return values
