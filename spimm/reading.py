"""Files of others read whole: regular ones only, and only up to a size.

A pipe would wait for a writer, a device such as /dev/zero would never end, and a sparse file of a few bytes on the disk
can state terabytes.
"""

import os
import stat
from pathlib import Path

TEXT_BYTES = 2**26
"""The largest text that `read_text` reads by default."""
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}


class UnreadableFile(ValueError):
    """A file that exists and cannot be read. path: the file. reason: what was seen and expected."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def short(text: str, longest: int = 600) -> str:
    """`text` on one line, its middle left out where it is long: for messages with something from a file in them."""
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 2 :]}"
    return " ".join(text.split())


def read_bytes(path: str | Path, *, limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes.

    Raises FileNotFoundError for no file, UnreadableFile (a ValueError) for a folder, a pipe, a device, a file that is
    larger or that the system refuses.
    """
    try:
        descriptor = os.open(path, _FLAGS)
        try:
            facts = os.fstat(descriptor)
            _check(path, facts, limit)
            return _whole(descriptor, facts.st_size)
        finally:
            os.close(descriptor)
    except (FileNotFoundError, UnreadableFile):
        raise
    except (OSError, ValueError) as error:  # ValueError for a path with a zero in it
        raise UnreadableFile(Path(path), f"cannot be read: {error}") from error
    except MemoryError as error:
        raise UnreadableFile(Path(path), "needs more memory than there is") from error


def require_regular(path: str | Path, *, limit: int | None = None) -> None:
    """For libraries that open `path` themselves. Errors as in `read_bytes`; limit: bytes, None for any size."""
    try:
        _check(path, os.stat(path), limit)
    except (FileNotFoundError, UnreadableFile):
        raise
    except (OSError, ValueError) as error:
        raise UnreadableFile(Path(path), f"cannot be read: {error}") from error


def read_text(path: str | Path, *, limit: int = TEXT_BYTES, encoding: str = "utf-8") -> str:
    """The text of a regular file. UnreadableFile also for bytes that are no text. Errors as in `read_bytes`."""
    try:
        return read_bytes(path, limit=limit).decode(encoding)
    except UnicodeDecodeError as error:
        raise UnreadableFile(Path(path), f"expected {encoding} text, got another byte at {error.start}") from error


def _check(path: str | Path, facts: os.stat_result, limit: int | None) -> None:
    if not stat.S_ISREG(facts.st_mode):
        kind = _KINDS.get(stat.S_IFMT(facts.st_mode), "a device")
        raise UnreadableFile(Path(path), f"expected a regular file, got {kind}")
    if limit is not None and facts.st_size > limit:
        raise UnreadableFile(Path(path), f"expected a file of at most {limit} bytes, got {facts.st_size}")


def _whole(descriptor: int, size: int) -> bytes:
    """Up to `size` bytes; the system may give fewer at a time."""
    data = os.read(descriptor, size)
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data
